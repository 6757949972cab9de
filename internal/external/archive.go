package external

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

// MaxArchive bounds an archive, and maxUnpacked what comes out of it, both in bytes. The
// requests of a hundred nodes need less than two megabytes.
const (
	MaxArchive  = 16 << 20
	maxUnpacked = 64 << 20
)

// Format is a kind of archive, named by its usual extension.
type Format string

// The archives that ReadArchive and WriteArchive know.
const (
	Tar     Format = ".tar"
	TarGzip Format = ".tar.gz"
	Zip     Format = ".zip"
)

// FormatOf tells an archive's format by its first bytes; what is neither gzip nor zip is
// taken for tar.
func FormatOf(data []byte) Format {
	switch {
	case bytes.HasPrefix(data, []byte{0x1f, 0x8b}):
		return TarGzip
	case bytes.HasPrefix(data, []byte("PK\x03\x04")), bytes.HasPrefix(data, []byte("PK\x05\x06")):
		return Zip
	}
	return Tar
}

// SignedName is the name of the archive that answers the archive name.
func SignedName(name string, f Format) string {
	for _, ext := range []string{".tar.gz", ".tgz", ".tar", ".zip"} {
		if stem, ok := strings.CutSuffix(name, ext); ok {
			return stem + "-signed" + ext
		}
	}
	return name + "-signed" + string(f)
}

// ReadArchive reads the files of an archive that want asks for. Nothing is unpacked to
// disk. An archive with paths that lead out of it, with the same path twice or with more
// than the limits allow is refused as a whole.
func ReadArchive(data []byte, want func(path string) bool) (*Files, error) {
	a := &unpacker{want: want, names: map[string]bool{}}
	var err error
	switch FormatOf(data) {
	case Zip:
		err = a.zip(data)
	case TarGzip:
		err = a.gzip(data)
	default:
		err = a.tar(bytes.NewReader(data))
	}
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	a.files.sort()
	return &a.files, nil
}

type unpacker struct {
	want     func(string) bool
	files    Files
	names    map[string]bool
	unpacked int // bytes
}

var errUnpacked = fmt.Errorf("more than %d bytes unpacked", maxUnpacked)

func (a *unpacker) gzip(data []byte) error {
	unzipped, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return a.tar(&boundedReader{unzipped, maxUnpacked})
}

// boundedReader fails when more than left bytes come out: a small file cannot unpack to a
// large one, not even in the parts that are skipped.
type boundedReader struct {
	from io.Reader
	left int
}

func (b *boundedReader) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, errUnpacked
	}
	return n, err
}

func (a *unpacker) tar(from io.Reader) error {
	r := tar.NewReader(from)
	for {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		mode := header.FileInfo().Mode()
		if header.Typeflag == tar.TypeLink {
			mode |= fs.ModeIrregular // a hard link has no bytes of its own
		}
		open := func() (io.ReadCloser, error) { return io.NopCloser(r), nil }
		if err := a.add(header.Name, mode, open); err != nil {
			return err
		}
	}
}

func (a *unpacker) zip(data []byte) error {
	r, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return err
	}
	for _, file := range r.File {
		if err := a.add(file.Name, file.Mode(), file.Open); err != nil {
			return err
		}
	}
	return nil
}

// add takes one entry of an archive: its name, checked, and its bytes if they are wanted.
func (a *unpacker) add(name string, mode fs.FileMode, open func() (io.ReadCloser, error)) error {
	inside := path.Clean(name)
	switch {
	case !fs.ValidPath(inside) || strings.Contains(inside, `\`) || slices.Contains(strings.Split(name, "/"), ".."):
		return fmt.Errorf("the path %.200q leads out of it", name)
	case !isPrintable(inside):
		return fmt.Errorf("the path %.200q is unprintable", name)
	}
	if len(a.names) >= maxEntries {
		return fmt.Errorf("it holds more than %d files and folders", maxEntries)
	}
	if mode.IsDir() || inside == "." {
		return nil
	}
	if a.names[inside] {
		return fmt.Errorf("it holds %q twice", inside)
	}
	a.names[inside] = true
	if slices.ContainsFunc(folders(inside), isPrivate) {
		return nil
	}
	if !mode.IsRegular() {
		a.files.Passed = append(a.files.Passed, inside)
		return nil
	}
	a.files.Names = append(a.files.Names, inside)
	if !a.want(inside) {
		return nil
	}
	content, err := open()
	if err != nil {
		return fmt.Errorf("%s: %w", inside, err)
	}
	defer content.Close()
	data, err := io.ReadAll(io.LimitReader(content, MaxFile+1))
	if err != nil {
		return fmt.Errorf("%s: %w", inside, err)
	}
	if len(data) > MaxFile {
		return fmt.Errorf("%s is larger than %d bytes", inside, MaxFile)
	}
	if a.unpacked += len(data); a.unpacked > maxUnpacked {
		return errUnpacked
	}
	a.files.Files = append(a.files.Files, File{inside, data})
	return nil
}

// folders lists the folders that a path leads through.
func folders(name string) []string {
	var list []string
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		list = append(list, dir)
	}
	return list
}

// WriteArchive packs files, readable for everybody and dated now.
func WriteArchive(f Format, files []File, now time.Time) ([]byte, error) {
	var out bytes.Buffer
	var err error
	switch f {
	case Zip:
		err = writeZip(&out, files, now)
	case TarGzip:
		packed := gzip.NewWriter(&out)
		if err = writeTar(packed, files, now); err == nil {
			err = packed.Close()
		}
	default:
		err = writeTar(&out, files, now)
	}
	if err != nil {
		return nil, fmt.Errorf("write archive: %w", err)
	}
	return out.Bytes(), nil
}

func writeTar(to io.Writer, files []File, now time.Time) error {
	w := tar.NewWriter(to)
	for _, file := range files {
		header := &tar.Header{
			Name: file.Path, Mode: int64(CertificateMode), Size: int64(len(file.Data)), ModTime: now.UTC().Truncate(time.Second),
		}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := w.Write(file.Data); err != nil {
			return err
		}
	}
	return w.Close()
}

func writeZip(to io.Writer, files []File, now time.Time) error {
	w := zip.NewWriter(to)
	for _, file := range files {
		header := &zip.FileHeader{Name: file.Path, Method: zip.Deflate, Modified: now.UTC()}
		header.SetMode(CertificateMode)
		content, err := w.CreateHeader(header)
		if err != nil {
			return err
		}
		if _, err := content.Write(file.Data); err != nil {
			return err
		}
	}
	return w.Close()
}
