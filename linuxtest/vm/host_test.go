package vm

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pitvisor/pitvisor/linuxtest"
)

func TestMain(m *testing.M) { linuxtest.Main(m) }

// bzImage packs a payload as the kernel's build does.
func bzImage(t *testing.T, payload []byte, size int) []byte {
	t.Helper()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(payload); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	data := binary.LittleEndian.AppendUint32(packed.Bytes(), uint32(size))
	image := make([]byte, 3*512)
	image[0x1f1] = 2 // sectors of real-mode code after the first
	copy(image[0x202:], "HdrS")
	binary.LittleEndian.PutUint32(image[0x248:], 64) // behind the loader
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(len(data)))
	image = append(image, make([]byte, 64)...)
	return append(append(image, data...), "signature"...)
}

func TestExtractKernel(t *testing.T) {
	elf := append([]byte("\x7fELF"), bytes.Repeat([]byte("kernel "), 1000)...)
	got, err := extractKernel(t.Context(), bzImage(t, elf, len(elf)))
	if !bytes.Equal(got, elf) || err != nil {
		t.Errorf("extractKernel = %d bytes, %v, want %d", len(got), err, len(elf))
	}
	short := bzImage(t, elf, len(elf))[:0x300]
	for name, image := range map[string][]byte{
		"not a bzImage": make([]byte, 1000), "payload at": short,
		"want 9 of ELF": bzImage(t, elf, 9), "of ELF": bzImage(t, []byte("text"), 4),
	} {
		if _, err := extractKernel(t.Context(), image); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("extractKernel = %v, want %s", err, name)
		}
	}
}

func TestDecompressKnowsOnlyWhatItKnows(t *testing.T) {
	if _, err := decompress(t.Context(), []byte("BZh9")); err == nil || !strings.Contains(err.Error(), "42 5a 68 39") {
		t.Errorf("decompress = %v, want the first bytes", err)
	}
	if _, err := decompress(t.Context(), []byte("\x1f\x8bgarbage")); err == nil || !strings.Contains(err.Error(), "gzip -dc") {
		t.Errorf("decompress of garbage = %v, want what gzip says", err)
	}
}

// Each entry starts at a multiple of four, and so does its content.
func TestArchive(t *testing.T) {
	var b bytes.Buffer
	a := &archive{w: &b}
	a.dir("dev")
	a.device("dev/console", 0o600, 5, 1)
	a.file("init", 0o755, []byte("12345"))
	if err := a.end(); err != nil {
		t.Fatal(err)
	}
	want := "070701" + "00000003" + "000081ed" + strings.Repeat("00000000", 2) + "00000001" + "00000000" + "00000005" +
		strings.Repeat("00000000", 4) + "00000005" + "00000000" + "init\x00" + "\x00" + "12345" + "\x00\x00\x00"
	if at := strings.Index(b.String(), want); at < 0 || at%4 != 0 {
		t.Errorf("the archive has its file at %d:\n%q", at, b.String())
	}
	if !strings.Contains(b.String(), "00002180") || !strings.Contains(b.String(), "0000000500000001"+"0000000c") {
		t.Errorf("no device 5:1 in %q", b.String())
	}
	if b.Len()%4 != 0 || !strings.HasSuffix(strings.TrimRight(b.String(), "\x00"), "TRAILER!!!") {
		t.Errorf("the archive of %d bytes ends with %q", b.Len(), b.String()[b.Len()-20:])
	}
}

func TestArchiveNamesWhatItCouldNotWrite(t *testing.T) {
	r, w := io.Pipe()
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	a := &archive{w: w}
	a.file("init", 0o755, nil)
	a.file("later", 0o755, nil)
	if err := a.end(); !errors.Is(err, io.ErrClosedPipe) || !strings.Contains(err.Error(), "write init ") {
		t.Errorf("end() = %v", err)
	}
}

func TestMirrorOfTheHost(t *testing.T) {
	for targets, want := range map[string]string{
		"": defaultMirror,
		"Debian main bookworm-security http://mirror.x/debian-security/\nDebian main bookworm-updates http://mirror.x/debian/\nDebian main bookworm http://mirror.x/debian/\n": "http://mirror.x/debian",
		"Debian contrib bookworm http://a/debian/\nDebian main trixie https://b/debian\n":                                                                                      "https://b/debian",
		"Ubuntu main noble http://archive.ubuntu.com/ubuntu/\n":                                                                                                                defaultMirror,
		"Debian main bookworm http://b/other/\n":                                                                                                                               defaultMirror,
	} {
		if got := pickMirror(targets); got != want {
			t.Errorf("pickMirror(%q) = %s, want %s", targets, got, want)
		}
	}
}

func TestKernelNames(t *testing.T) {
	for name, want := range map[string]string{"6.12": "trixie", "newest": "trixie-backports", "suite:sid": "sid"} {
		if got, err := suiteOf(name); got != want || err != nil {
			t.Errorf("suiteOf(%s) = %s, %v, want %s", name, got, err, want)
		}
	}
	for _, name := range []string{"", "6.2", "suite:", "suite:../x", "suite:a b"} {
		if got, err := suiteOf(name); err == nil {
			t.Errorf("suiteOf(%q) = %s, want an error", name, got)
		}
	}
}

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	s := &sender{w: &b}
	if _, err := s.Write([]byte("out")); err != nil {
		t.Fatal(err)
	}
	if err := s.message(message{Type: "bye"}); err != nil {
		t.Fatal(err)
	}
	whole := b.Bytes()
	kind, data, err := receive(&b)
	if kind != frameOutput || string(data) != "out" || err != nil {
		t.Errorf("receive = %q, %q, %v", kind, data, err)
	}
	kind, data, err = receive(&b)
	if kind != frameMessage || !bytes.Contains(data, []byte(`"bye"`)) || err != nil {
		t.Errorf("receive = %q, %q, %v", kind, data, err)
	}
	if _, _, err := receive(&b); !errors.Is(err, io.EOF) {
		t.Errorf("receive at the end = %v, want EOF", err)
	}
	for _, bad := range [][]byte{whole[:3], whole[:6], []byte("X\x00\x00\x00\x00"), []byte("J\xff\xff\xff\xff")} {
		if _, _, err := receive(bytes.NewReader(bad)); err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("receive of %q = %v, want an error that is not the end", bad, err)
		}
	}
}

func TestCacheAsksAgainAfterAWhile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "record")
	if err := save(name, &Kernel{Release: "6.1"}); err != nil {
		t.Fatal(err)
	}
	var k Kernel
	if !(Cache{}).load(name, &k) || k.Release != "6.1" {
		t.Errorf("load = %+v, want what was saved", k)
	}
	if (Cache{Update: true}).load(name, &k) {
		t.Error("load with Update uses what is there")
	}
	old := time.Now().Add(-8 * 24 * time.Hour)
	if err := os.Chtimes(name, old, old); err != nil {
		t.Fatal(err)
	}
	if (Cache{}).load(name, &k) {
		t.Error("load uses what is eight days old")
	}
	if !(Cache{MaxAge: 9 * 24 * time.Hour}).load(name, &k) {
		t.Error("load does not use what is young enough")
	}
	if err := os.WriteFile(name, []byte("{"), 0o644); err != nil {
		t.Fatal(err)
	}
	if (Cache{}).load(name, &k) {
		t.Error("load uses half a record")
	}
}

func TestTreeIsCopiedWithoutWhatIsHiddenOrBuilt(t *testing.T) {
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "to")
	for name, size := range map[string]int{"a/b.txt": 3, ".git/x": 1, "bin/tool": mostCopied + 1, "run.sh": 5} {
		path := filepath.Join(from, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, make([]byte, size), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("a/b.txt", filepath.Join(from, "link")); err != nil {
		t.Fatal(err)
	}
	if err := copyTree(from, to); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, pattern := range []string{"*", "*/*", ".*"} {
		names, err := filepath.Glob(filepath.Join(to, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			got = append(got, strings.TrimPrefix(name, to+"/"))
		}
	}
	slices.Sort(got)
	if want := []string{"a", "a/b.txt", "bin", "link", "run.sh"}; !slices.Equal(got, want) {
		t.Errorf("copied %q, want %q", got, want)
	}
	if target, err := os.Readlink(filepath.Join(to, "link")); target != "a/b.txt" || err != nil {
		t.Errorf("link = %s, %v", target, err)
	}
	if st, err := os.Stat(filepath.Join(to, "run.sh")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("run.sh: %v, %v", st, err)
	}
}

// The disk of a tree has room for every file of it and for more.
func TestDisk(t *testing.T) {
	linuxtest.NeedCommand(t, "mkfs.ext4")
	tree, image := t.TempDir(), filepath.Join(t.TempDir(), "image")
	for i := range 300 {
		name := filepath.Join(tree, "file"+string(rune('a'+i%26))+strings.Repeat("x", i/26))
		if err := os.WriteFile(name, bytes.Repeat([]byte{byte(i)}, 100*i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := makeDisk(t.Context(), tree, image, 1<<20); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	if magic := binary.LittleEndian.Uint16(data[1024+56:]); magic != 0xef53 {
		t.Errorf("magic of the disk = %#x, want 0xef53", magic)
	}
}
