package history

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// The format of a bbolt file, as far as it must be known to see that a file is damaged. Numbers are in
// the byte order of the machine. Every page begins with its own number (8 bytes), its kind (2), the
// count of its elements (2), and how many pages more belong to it (4).
const (
	boltMagic    = 0xED0CDAED
	boltVersion  = 2
	boltHeader   = 16
	boltMeta     = 64 // bytes of a meta page after the header, the checksum included
	boltElement  = 16
	boltBranch   = 0x01
	boltLeaf     = 0x02
	boltFreelist = 0x10
	boltNoList   = ^uint64(0)
	boltFirst    = 4  // pages of a new file, with two meta pages of the transactions 0 and 1
	boltDepth    = 32 // of trees; 10,000 records need 3
)

// pageChecker walks over all pages that bbolt would ever follow.
type pageChecker struct {
	file     io.ReaderAt
	pageSize uint64
	pages    uint64 // how many there are; higher numbers do not exist
	root     uint64
	freelist uint64
	seen     []bool // by page number
}

// checkPages says what is wrong with the structure of a bbolt file. It answers for the structure only:
// bytes changed within keys and values go unnoticed.
func checkPages(file io.ReaderAt, size int64) error {
	c := &pageChecker{file: file}
	if err := c.readMeta(uint64(size)); err != nil {
		return err
	}
	c.seen = make([]bool, c.pages)
	c.seen[0], c.seen[1] = true, true
	if err := c.tree(c.root, nil, nil, 0); err != nil {
		return err
	}
	if c.freelist == boltNoList {
		return nil
	}
	return c.freePages()
}

// meta is one of the two meta pages.
type meta struct {
	pageSize, root, freelist, pages, txid uint64
}

// readMeta takes the newer of the valid meta pages. The second one stands where the page size says,
// which only a valid page tells; without a valid first one all sizes are tried, as bbolt does.
func (c *pageChecker) readMeta(size uint64) error {
	best, ok := c.metaAt(0)
	if ok {
		if second, valid := c.metaAt(best.pageSize); valid && second.txid > best.txid {
			best = second
		}
	}
	for shift := 0; !ok && shift < 16; shift++ {
		best, ok = c.metaAt(1024 << shift)
	}
	if !ok {
		return errors.New("no valid meta page")
	}
	if best.pages == boltFirst && best.txid < 2 && size < boltFirst*best.pageSize {
		return errUnbegun
	}
	if best.pageSize < 512 || best.pageSize > 1<<16 || best.pages < 3 || best.pages > size/best.pageSize {
		return fmt.Errorf("%d bytes do not hold %d pages of %d bytes", size, best.pages, best.pageSize)
	}
	c.pageSize, c.pages, c.root, c.freelist = best.pageSize, best.pages, best.root, best.freelist
	return nil
}

func (c *pageChecker) metaAt(offset uint64) (meta, bool) {
	var page [boltHeader + boltMeta]byte
	if _, err := c.file.ReadAt(page[:], int64(offset)); err != nil {
		return meta{}, false
	}
	m := page[boltHeader:]
	sum := fnv.New64a()
	_, _ = sum.Write(m[:56]) // a hash takes everything
	ne := binary.NativeEndian
	if ne.Uint32(m) != boltMagic || ne.Uint32(m[4:]) != boltVersion || ne.Uint64(m[56:]) != sum.Sum64() {
		return meta{}, false
	}
	return meta{
		pageSize: uint64(ne.Uint32(m[8:])), root: ne.Uint64(m[16:]),
		freelist: ne.Uint64(m[32:]), pages: ne.Uint64(m[40:]), txid: ne.Uint64(m[48:]),
	}, true
}

// page reads one page with what belongs to it, and marks it as in use.
func (c *pageChecker) page(id uint64) (kind, count uint16, data []byte, err error) {
	if id >= c.pages || c.seen[id] {
		return 0, 0, nil, fmt.Errorf("page %d does not exist or is used twice", id)
	}
	var header [boltHeader]byte
	if _, err := c.file.ReadAt(header[:], int64(id*c.pageSize)); err != nil {
		return 0, 0, nil, err
	}
	ne := binary.NativeEndian
	more := uint64(ne.Uint32(header[12:]))
	if ne.Uint64(header[:]) != id || more >= c.pages-id {
		return 0, 0, nil, fmt.Errorf("page %d has a wrong header", id)
	}
	for i := id; i <= id+more; i++ {
		if c.seen[i] {
			return 0, 0, nil, fmt.Errorf("page %d is used twice", i)
		}
		c.seen[i] = true
	}
	data = make([]byte, (1+more)*c.pageSize)
	if _, err := c.file.ReadAt(data, int64(id*c.pageSize)); err != nil {
		return 0, 0, nil, err
	}
	return ne.Uint16(data[8:]), ne.Uint16(data[10:]), data, nil
}

// tree checks a page of a tree and all below it. Its keys must lie in [low, high); nil is no bound.
func (c *pageChecker) tree(id uint64, low, high []byte, depth int) error {
	if depth > boltDepth {
		return fmt.Errorf("page %d lies too deep", id)
	}
	kind, count, data, err := c.page(id)
	if err != nil {
		return err
	}
	switch {
	case kind == boltLeaf:
		err = c.leaf(data, count, low, high, depth)
	case kind == boltBranch && count > 0:
		err = c.branch(data, count, low, high, depth)
	default:
		return fmt.Errorf("page %d is of the wrong kind", id)
	}
	if err != nil {
		return fmt.Errorf("page %d: %w", id, err)
	}
	return nil
}

func (c *pageChecker) branch(data []byte, count uint16, low, high []byte, depth int) error {
	keys, err := elementKeys(data, count, low, high, func(e []byte) (pos, key, value uint32) {
		return binary.NativeEndian.Uint32(e), binary.NativeEndian.Uint32(e[4:]), 0
	})
	if err != nil {
		return err
	}
	for i, key := range keys {
		next := high
		if i+1 < len(keys) {
			next = keys[i+1]
		}
		child := binary.NativeEndian.Uint64(data[boltHeader+i*boltElement+8:])
		if err := c.tree(child, key, next, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (c *pageChecker) leaf(data []byte, count uint16, low, high []byte, depth int) error {
	ne := binary.NativeEndian
	keys, err := elementKeys(data, count, low, high, func(e []byte) (pos, key, value uint32) {
		return ne.Uint32(e[4:]), ne.Uint32(e[8:]), ne.Uint32(e[12:])
	})
	if err != nil {
		return err
	}
	for i, key := range keys {
		at := boltHeader + i*boltElement
		element := data[at:]
		begin := at + int(ne.Uint32(element[4:])) + len(key)
		value := data[begin : begin+int(ne.Uint32(element[12:]))]
		switch ne.Uint32(element) {
		case 0:
		case 1:
			if err := c.bucket(value, depth); err != nil {
				return err
			}
		default:
			return fmt.Errorf("element %d is of the wrong kind", i)
		}
	}
	return nil
}

// bucket checks a tree within a tree: the page it begins at, or 0 and the page itself.
func (c *pageChecker) bucket(value []byte, depth int) error {
	if len(value) < 16 {
		return errors.New("a bucket is cut off")
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		return c.tree(root, nil, nil, depth+1)
	}
	inline := value[16:]
	if len(inline) < boltHeader || depth > boltDepth || binary.NativeEndian.Uint16(inline[8:]) != boltLeaf ||
		binary.NativeEndian.Uint32(inline[12:]) != 0 {
		return errors.New("an inline bucket is damaged")
	}
	return c.leaf(inline, binary.NativeEndian.Uint16(inline[10:]), nil, nil, depth+1)
}

// elementKeys reads the keys of a page and checks that every element lies within the page and that the
// keys ascend.
func elementKeys(data []byte, count uint16, low, high []byte,
	sizes func([]byte) (pos, key, value uint32),
) ([][]byte, error) {
	end := boltHeader + int(count)*boltElement
	if end > len(data) {
		return nil, fmt.Errorf("%d elements do not fit", count)
	}
	keys := make([][]byte, count)
	for i := range keys {
		at := boltHeader + i*boltElement
		pos, key, value := sizes(data[at:])
		begin := at + int(pos)
		if begin < end || begin+int(key)+int(value) > len(data) || key == 0 {
			return nil, fmt.Errorf("element %d lies outside", i)
		}
		keys[i] = data[begin : begin+int(key)]
		if i > 0 && bytes.Compare(keys[i-1], keys[i]) >= 0 ||
			low != nil && bytes.Compare(keys[i], low) < 0 || high != nil && bytes.Compare(keys[i], high) >= 0 {
			return nil, fmt.Errorf("key %d is out of order", i)
		}
	}
	return keys, nil
}

// freePages checks the list of free pages: in order, and none of them in use.
func (c *pageChecker) freePages() error {
	kind, short, data, err := c.page(c.freelist)
	if err != nil {
		return err
	}
	ne := binary.NativeEndian
	at, count := boltHeader, uint64(short)
	if count == 0xFFFF {
		count, at = ne.Uint64(data[at:]), at+8
	}
	if kind != boltFreelist || count > uint64(len(data)-at)/8 {
		return errors.New("the list of free pages is damaged")
	}
	for i := range count {
		id := ne.Uint64(data[at+int(i)*8:])
		if id >= c.pages || c.seen[id] {
			return fmt.Errorf("page %d is free and in use, or does not exist", id)
		}
		c.seen[id] = true
	}
	return nil
}
