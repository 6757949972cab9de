package external

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
)

func everything(string) bool { return true }

func TestArchivesComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	want := []File{{"node1/admin.conf.crt", []byte("one")}, {"node1/pki/apiserver.crt", bytes.Repeat([]byte("two "), 5000)}}
	for _, format := range []Format{Tar, TarGzip, Zip} {
		data, err := WriteArchive(format, want, noon)
		must(t, err)
		if got := FormatOf(data); got != format {
			t.Errorf("FormatOf(%s archive) = %s", format, got)
		}
		got, err := ReadArchive(data, everything)
		must(t, err)
		if !slices.EqualFunc(got.Files, want, func(a, b File) bool { return a.Path == b.Path && bytes.Equal(a.Data, b.Data) }) {
			t.Errorf("%s: read %v", format, got.Names)
		}
		again, err := WriteArchive(format, want, noon)
		must(t, err)
		if !bytes.Equal(data, again) {
			t.Errorf("%s: the same files at the same time give other bytes", format)
		}
	}
}

func TestSignedName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"/a/req.tar.gz": "/a/req-signed.tar.gz", "req.tgz": "req-signed.tgz", "req.tar": "req-signed.tar", "req.zip": "req-signed.zip",
		"requests": "requests-signed.tar.gz",
	} {
		if got := SignedName(name, TarGzip); got != want {
			t.Errorf("SignedName(%q) = %q, want %q", name, got, want)
		}
	}
}

// tarOf packs headers; the content of a file is its size in bytes of 'x'.
func tarOf(t testing.TB, headers ...tar.Header) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, h := range headers {
		if h.Mode == 0 {
			h.Mode = 0o600
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(bytes.Repeat([]byte("x"), int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func zipOf(t testing.TB, names ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	for _, name := range names {
		content, err := w.Create(name)
		if err == nil {
			_, err = io.WriteString(content, "x")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func gzipOf(t testing.TB, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestArchivesThatAreRefusedAsAWhole(t *testing.T) {
	t.Parallel()
	big := tarOf(t, tar.Header{Name: "skipped.bin", Size: maxUnpacked + 1})
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"a path that climbs out":              {tarOf(t, tar.Header{Name: "../apiserver.csr"}), "leads out"},
		"a path that climbs out and back":     {tarOf(t, tar.Header{Name: "a/../../b/x.csr"}), "leads out"},
		"a path that climbs within":           {tarOf(t, tar.Header{Name: "a/../apiserver.csr"}), "leads out"},
		"an absolute path":                    {tarOf(t, tar.Header{Name: "/etc/x.csr"}), "leads out"},
		"a zip path that climbs out":          {zipOf(t, "../x.csr"), "leads out"},
		"a zip path of another system":        {zipOf(t, `..\x.csr`), "leads out"},
		"a path with a command for terminals": {tarOf(t, tar.Header{Name: "\x1b[2J.csr"}), "unprintable"},
		"the same path twice":                 {tarOf(t, tar.Header{Name: "a.csr"}, tar.Header{Name: "./a.csr"}), "twice"},
		"a file and a link of the same path":  {tarOf(t, tar.Header{Name: "a.csr", Typeflag: tar.TypeSymlink, Linkname: "b"}, tar.Header{Name: "a.csr"}), "twice"},
		"a wanted file that is too large":     {tarOf(t, tar.Header{Name: "a.csr", Size: MaxFile + 1}), "larger than"},
		"a small file that unpacks to a lot":  {gzipOf(t, big), "unpacked"},
		"an archive that is cut short":        {tarOf(t, tar.Header{Name: "a.csr", Size: 2000})[:1000], "EOF"},
		"a zip archive that is cut short":     {zipOf(t, "a.csr")[:20], "zip"},
		"something that is not an archive":    {bytes.Repeat([]byte("no archive "), 100), "tar"},
		"gzip around something that is none":  {gzipOf(t, bytes.Repeat([]byte("no archive "), 100)), "tar"},
		"gzip that is damaged from the start": {[]byte{0x1f, 0x8b, 0}, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := ReadArchive(c.data, IsRequest)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v: want one with %q", err, c.want)
			}
		})
	}
}

func TestTooManyEntriesInAnArchive(t *testing.T) {
	t.Parallel()
	a := &unpacker{want: everything, names: map[string]bool{}}
	for i := range maxEntries {
		a.names[fmt.Sprint(i)] = true
	}
	if err := a.add("one-more.csr", 0o600, nil); err == nil {
		t.Error("one entry more than allowed was taken")
	}
}

func TestLinksInArchivesArePassedOver(t *testing.T) {
	t.Parallel()
	data := tarOf(t,
		tar.Header{Name: "apiserver.csr", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"},
		tar.Header{Name: "admin.conf.csr", Typeflag: tar.TypeLink, Linkname: "x"},
		tar.Header{Name: "pipe.csr", Typeflag: tar.TypeFifo},
		tar.Header{Name: "pki/", Typeflag: tar.TypeDir, Mode: 0o700},
		tar.Header{Name: ".kubepki/backups/1/apiserver.csr", Size: 1},
		tar.Header{Name: "pki/etcd/server.csr", Size: 7})
	got, err := ReadArchive(data, IsRequest)
	must(t, err)
	if want := []string{"admin.conf.csr", "apiserver.csr", "pipe.csr"}; !slices.Equal(got.Passed, want) {
		t.Errorf("passed over %v: want %v", got.Passed, want)
	}
	if len(got.Files) != 1 || got.Files[0].Path != "pki/etcd/server.csr" || len(got.Files[0].Data) != 7 {
		t.Errorf("files %v: want the one of etcd", got.Names)
	}
	if !got.has("apiserver.csr") || got.has("apiserver.crt") {
		t.Error("has does not know what is there")
	}
}

func FuzzReadArchive(f *testing.F) {
	f.Add(tarOf(f, tar.Header{Name: "pki/apiserver.csr", Size: 10}))
	f.Add(tarOf(f, tar.Header{Name: "../x.csr", Size: 10}))
	f.Add(tarOf(f, tar.Header{Name: "l.csr", Typeflag: tar.TypeSymlink, Linkname: "/"}))
	f.Add(gzipOf(f, tarOf(f, tar.Header{Name: "admin.conf.csr", Size: 3})))
	f.Add(zipOf(f, "a/pki/etcd/peer.csr", "b.csr"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		files, err := ReadArchive(data, everything)
		if err != nil {
			return
		}
		total := 0
		for i, file := range files.Files {
			if strings.HasPrefix(file.Path, "/") || slices.Contains(strings.Split(file.Path, "/"), "..") {
				t.Errorf("the path %q leads out", file.Path)
			}
			if i > 0 && files.Files[i-1].Path >= file.Path {
				t.Errorf("%q and %q are not in order", files.Files[i-1].Path, file.Path)
			}
			if len(file.Data) > MaxFile {
				t.Errorf("%q has %d bytes", file.Path, len(file.Data))
			}
			total += len(file.Data)
		}
		if total > maxUnpacked {
			t.Errorf("%d bytes unpacked", total)
		}
	})
}
