package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/pitvisor/pitvisor/linuxtest"
	"golang.org/x/sys/unix"
)

// tree writes files below a new directory.
func tree(tb testing.TB, files map[string]string) string {
	tb.Helper()
	dir := tb.TempDir()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			tb.Fatal(err)
		}
	}
	return dir
}

func TestDropInsAreFoundBesideTheMainFile(t *testing.T) {
	const web = "[pool.web]\nsize = "
	dir := tree(t, map[string]string{
		"pitvisor.toml": valid, "other.toml": valid,
		"conf.d/20-b.toml": web + "20\ndirectory = \"sub\"\n", "conf.d/10-a.toml": web + "10\nnice = 1\n", "conf.d/9.toml": web + "9\n", "conf.d/30.toml": "",
		"conf.d/.99-hidden.toml": "x", "conf.d/99-old.toml~": "x", "conf.d/#99.toml#": "x", "conf.d/99.toml.dpkg-old": "x", "conf.d/99.conf": "x",
		"conf.d/sub/99.toml": "x", "elsewhere/1.toml": web + "100\n", "empty/README": "x",
	})
	load := func(s Source) *Config {
		t.Helper()
		s.File = filepath.Join(dir, s.File)
		c, err := s.Load()
		if err != nil {
			t.Fatal(err)
		}
		for i := range c.Files {
			c.Files[i] = strings.TrimPrefix(c.Files[i], dir+"/")
		}
		return c
	}
	c := load(Source{File: "pitvisor.toml"})
	// In the order of the names: "9.toml" is last, not first.
	if want := []string{"pitvisor.toml", "conf.d/10-a.toml", "conf.d/20-b.toml", "conf.d/30.toml", "conf.d/9.toml"}; !slices.Equal(c.Files, want) {
		t.Errorf("files = %q, want %q", c.Files, want)
	}
	if spec := c.Pools[0].Spec; spec.Size != 9 || *spec.Command.Nice != 1 || spec.Command.Dir != filepath.Join(dir, "sub") {
		t.Errorf("spec = %+v", spec)
	}
	for _, tc := range []struct {
		source Source
		size   int
	}{
		{Source{File: "other.toml"}, 1},
		{Source{File: "pitvisor.toml", DropIns: NoDropIns}, 1},
		{Source{File: "pitvisor.toml", DropIns: filepath.Join(dir, "empty")}, 1},
		{Source{File: "pitvisor.toml", DropIns: filepath.Join(dir, "elsewhere")}, 100},
		{Source{File: "other.toml", DropIns: filepath.Join(dir, "conf.d")}, 9},
	} {
		if c := load(tc.source); c.Pools[0].Spec.Size != tc.size {
			t.Errorf("%+v: size %d of %q, want %d", tc.source, c.Pools[0].Spec.Size, c.Files, tc.size)
		}
	}
	as := load(Source{File: "other.toml", As: "/srv/shop/shop.toml"})
	if as.Name != "shop" || as.Path != "/srv/shop/shop.toml" || as.Pools[0].Spec.Command.Dir != "/srv/shop" {
		t.Errorf("config = %+v", as)
	}
}

func TestDropInsThatCanNotBeRead(t *testing.T) {
	dir := tree(t, map[string]string{"pitvisor.toml": valid + "size = 0\n", "conf.d/5.toml": "[pool.web]\nnice = 99\n", "file": ""})
	conf := filepath.Join(dir, "conf.d")
	if err := errors.Join(os.Mkdir(conf+"/1.toml", 0o755), os.Symlink("nowhere", conf+"/2.toml"), unix.Mkfifo(conf+"/3.toml", 0o644),
		os.Symlink("../file", conf+"/4.toml"), os.Symlink("/dev/zero", conf+"/6.toml")); err != nil {
		t.Fatal(err)
	}
	_, err := Load(filepath.Join(dir, "pitvisor.toml"))
	got := strings.ReplaceAll(fmt.Sprint(err), dir+"/", "")
	want := "pitvisor.toml:3:8: size is 0, must be 1 to 10000\n" +
		"conf.d/1.toml: not a regular file\nconf.d/2.toml: stat file: no such file or directory\nconf.d/3.toml: not a regular file\n" +
		"conf.d/5.toml:2:8: nice is 99, must be -20 to 19\nconf.d/6.toml: not a regular file"
	if got != want {
		t.Errorf("errors:\n%s\nwant:\n%s", got, want)
	}
	for dropIns, want := range map[string]string{
		dir + "/none": dir + "/none: stat file: no such file or directory",
		dir + "/file": dir + "/file: not a directory",
	} {
		_, err := Source{File: filepath.Join(dir, "pitvisor.toml"), DropIns: dropIns}.Load()
		if lines := strings.Split(fmt.Sprint(err), "\n"); len(lines) != 2 || lines[1] != want {
			t.Errorf("errors of %s: %q, want also %q", dropIns, lines, want)
		}
	}
	// A file in the place of the directory is a mistake too.
	if err := os.Rename(conf, dir+"/away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(conf, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(filepath.Join(dir, "pitvisor.toml")); !strings.HasSuffix(fmt.Sprint(err), "conf.d: not a directory") {
		t.Errorf("error = %v", err)
	}
}

func TestTooManyDropIns(t *testing.T) {
	files := map[string]string{"pitvisor.toml": valid}
	for i := range maxDropIns {
		files[fmt.Sprintf("conf.d/%d.toml", i)] = "[pool.web]\nsize = 2\n"
	}
	dir := tree(t, files)
	path := filepath.Join(dir, "pitvisor.toml")
	if _, err := Load(path); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(dir+"/conf.d/more.toml", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); fmt.Sprint(err) != dir+"/conf.d: more than 1000 drop-ins: 1001" {
		t.Errorf("error = %v", err)
	}
}

func TestDropInsAreBoundedTogether(t *testing.T) {
	dir := tree(t, map[string]string{"pitvisor.toml": valid, "conf.d/1.toml": "", "conf.d/2.toml": "", "conf.d/3.toml": ""})
	for _, name := range []string{"1", "2", "3"} {
		if err := os.WriteFile(dir+"/conf.d/"+name+".toml", []byte("# "+strings.Repeat("x", maxFileSize-2)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	_, err := Load(filepath.Join(dir, "pitvisor.toml"))
	if lines := strings.Split(fmt.Sprint(err), "\n"); len(lines) != 2 || lines[0] != dir+"/conf.d/2.toml: the files have more than 32 MiB together: this is hardly a configuration" {
		t.Errorf("errors = %q", lines)
	}
}

// owned is a configuration whose parts belong to whom the test says.
func owned(t *testing.T, change func(dir string) error) error {
	t.Helper()
	dir := tree(t, map[string]string{"pitvisor.toml": valid, "conf.d/1.toml": "[pool.web]\nsize = 2\n"})
	if err := change(dir); err != nil {
		t.Fatal(err)
	}
	_, err := Load(filepath.Join(dir, "pitvisor.toml"))
	if err == nil {
		return nil
	}
	return errors.New(strings.ReplaceAll(err.Error(), dir+"/", ""))
}

func TestDropInsAreNobodyElses(t *testing.T) {
	linuxtest.NeedRoot(t, "to give a file to another user")
	const foreign = ": it belongs to the user with ID 65534, who is neither root nor you nor the owner of the main file: let it belong to one of them, or remove it"
	const open = ": everybody may write to it, but not to the main file: take that right away with chmod o-w"
	for name, tc := range map[string]struct {
		change func(dir string) error
		want   string
	}{
		"drop-in of another":      {func(dir string) error { return os.Chown(dir+"/conf.d/1.toml", 65534, 65534) }, "conf.d/1.toml" + foreign},
		"directory of another":    {func(dir string) error { return os.Chown(dir+"/conf.d", 65534, 65534) }, "conf.d" + foreign},
		"drop-in for everybody":   {func(dir string) error { return os.Chmod(dir+"/conf.d/1.toml", 0o666) }, "conf.d/1.toml" + open},
		"directory for everybody": {func(dir string) error { return os.Chmod(dir+"/conf.d", os.ModeSticky|0o777) }, "conf.d" + open},
		"all of one other": {func(dir string) error {
			return errors.Join(os.Chown(dir+"/pitvisor.toml", 65534, 0), os.Chown(dir+"/conf.d", 65534, 0), os.Chown(dir+"/conf.d/1.toml", 65534, 0))
		}, ""},
		"main file of another": {func(dir string) error { return os.Chown(dir+"/pitvisor.toml", 65534, 0) }, ""},
		"all for everybody": {func(dir string) error {
			return errors.Join(os.Chmod(dir+"/pitvisor.toml", 0o666), os.Chmod(dir+"/conf.d", 0o777), os.Chmod(dir+"/conf.d/1.toml", 0o666))
		}, ""},
		"a group of people": {func(dir string) error {
			return errors.Join(os.Chown(dir+"/conf.d", 0, 4), os.Chmod(dir+"/conf.d", 0o775), os.Chmod(dir+"/conf.d/1.toml", 0o664))
		}, ""},
		"a link to a file of another": {func(dir string) error {
			return errors.Join(os.WriteFile(dir+"/mine", nil, 0o644), os.Chown(dir+"/mine", 65534, 0), os.Symlink("../mine", dir+"/conf.d/2.toml"))
		}, "conf.d/2.toml" + foreign},
	} {
		t.Run(name, func(t *testing.T) {
			err := owned(t, tc.change)
			if got := fmt.Sprint(err); tc.want == "" && err != nil || tc.want != "" && got != tc.want {
				t.Errorf("error = %s, want %q", got, tc.want)
			}
		})
	}
}

// What can not be read of a drop-in is an error, and the main file's is one that says so.
func TestAMissingMainFile(t *testing.T) {
	dir := tree(t, map[string]string{"conf.d/1.toml": valid})
	if _, err := Load(filepath.Join(dir, "pitvisor.toml")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Load = %v, want %v", err, fs.ErrNotExist)
	}
}
