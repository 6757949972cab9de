package component

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// RunningKubelet is a process of this machine that is called kubelet.
type RunningKubelet struct {
	PID     int
	CertDir string // folder of its certificates, as it sees it

	dir string // of the process, such as /proc/4711
}

// maxCmdline is how much of a command line is read.
const maxCmdline = 1 << 20

// RunningKubelets lists the kubelets of a machine by its file system of processes, such as
// /proc (proc(5)). It tells what can be seen: processes that end meanwhile or that this user may
// not look at are passed over.
func RunningKubelets(proc string) []RunningKubelet {
	folder, err := os.Open(proc)
	if err != nil {
		return nil
	}
	defer folder.Close()
	names, _ := folder.Readdirnames(-1) // as many as there are
	var found []RunningKubelet
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		dir := filepath.Join(proc, name)
		if !isKubelet(dir) {
			continue
		}
		line, err := atomicfile.ReadFile(filepath.Join(dir, "cmdline"), maxCmdline)
		if err != nil || len(line) == 0 { // it has ended, and its parent has not noticed
			continue
		}
		flags := parseFlags(strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")[1:])
		found = append(found, RunningKubelet{PID: pid, CertDir: withDefault(flags.Get("cert-dir"), DefaultCertDir), dir: dir})
	}
	return found
}

// isKubelet looks at the name of a process. There are many of them, and an agent that has little to
// do looks often: so it makes no garbage to speak of.
func isKubelet(dir string) bool {
	file, err := os.Open(dir + "/comm")
	if err != nil {
		return false
	}
	defer file.Close()
	var name [16]byte // the kernel keeps 15, and a newline follows
	n, _ := file.Read(name[:])
	return string(name[:n]) == "kubelet\n"
}

// Keeps says whether the certificates of the kubelet lie in dir, a folder of this process. That
// of a kubelet in a container may have the same name and be another one, so folders are compared
// by what they are, seen through the root of the kubelet; by their names only where that cannot be
// seen, or where neither is there yet.
func (k RunningKubelet) Keeps(dir string) bool {
	named := filepath.Clean(k.CertDir)
	root := filepath.Join(k.dir, "root")
	if !filepath.IsAbs(named) {
		root = filepath.Join(k.dir, "cwd")
	}
	own, errOwn := os.Stat(dir)
	its, errIts := os.Stat(root + "/" + named) // Join would take ".." for the folder of the process
	view := folderView{sameName: named == filepath.Clean(dir), own: presence(errOwn), its: presence(errIts)}
	if errOwn == nil && errIts == nil {
		view.same = os.SameFile(own, its)
	}
	mine, errMine := os.Stat("/")
	theirs, errTheirs := os.Stat(filepath.Join(k.dir, "root"))
	view.sameRoot = errMine != nil || errTheirs != nil || os.SameFile(mine, theirs)
	return view.one()
}

// folderView is what was seen of two folders that may be one.
type folderView struct {
	own, its seen
	same     bool // both are there, and are one
	sameName bool
	sameRoot bool // both processes have the same root, or nobody can tell
}

type seen int

const (
	there seen = iota
	absent
	hidden // it may be there
)

func presence(err error) seen {
	switch {
	case err == nil:
		return there
	case errors.Is(err, fs.ErrNotExist):
		return absent
	}
	return hidden
}

// one decides whether two folders are one.
func (v folderView) one() bool {
	switch {
	case v.own == there && v.its == there:
		return v.same
	case v.own == hidden, v.its == hidden, v.own == absent && v.its == absent:
		return v.sameName && v.sameRoot
	}
	return false
}
