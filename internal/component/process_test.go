package component

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestRunningKubelets(t *testing.T) {
	for name, c := range map[string]struct {
		comm, cmdline string // "-": not there
		want          string // folder of its certificates; "": no kubelet
	}{
		"kubeadm's":                      {"kubelet\n", "/usr/bin/kubelet\x00--config=/var/lib/kubelet/config.yaml\x00", "/var/lib/kubelet/pki"},
		"a folder of its own":            {"kubelet\n", "kubelet\x00--cert-dir=/srv/pki\x00--v=2\x00", "/srv/pki"},
		"a folder of its own, in two":    {"kubelet\n", "kubelet\x00--cert-dir\x00/srv/pki\x00", "/srv/pki"},
		"a folder named twice":           {"kubelet\n", "kubelet\x00--cert-dir=/a\x00--cert-dir=/b\x00", "/b"},
		"no flags":                       {"kubelet\n", "kubelet\x00", "/var/lib/kubelet/pki"},
		"another program":                {"kubepki\n", "kubelet\x00", ""},
		"a longer name":                  {"kubelet-exporter\n", "kubelet-exporter\x00", ""},
		"a process that has ended":       {"kubelet\n", "", ""},
		"a process that nobody may read": {"kubelet\n", "-", ""},
		"a process that ends meanwhile":  {"-", "-", ""},
		"nothing but an end":             {"kubelet\n", "\x00", "/var/lib/kubelet/pki"},
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			for _, other := range []string{"self", "sys", "7x"} {
				if err := os.Mkdir(filepath.Join(proc, other), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			dir := filepath.Join(proc, "4711")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			for file, text := range map[string]string{"comm": c.comm, "cmdline": c.cmdline} {
				if text == "-" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			got := ""
			for _, k := range RunningKubelets(proc) {
				if got += k.CertDir; k.PID != 4711 {
					t.Errorf("process %d", k.PID)
				}
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
	if got := RunningKubelets(filepath.Join(t.TempDir(), "none")); got != nil {
		t.Errorf("without processes: %v", got)
	}
}

func TestTwoFoldersThatMayBeOne(t *testing.T) {
	for name, c := range map[string]struct {
		view folderView
		want bool
	}{
		"one": {folderView{own: there, its: there, same: true}, true},
		"another of the same name, as in a container": {folderView{own: there, its: there, sameName: true}, false},
		"its folder cannot be seen":                   {folderView{own: there, its: hidden, sameName: true, sameRoot: true}, true},
		"it cannot be seen, and has another name":     {folderView{own: there, its: hidden, sameRoot: true}, false},
		"neither is there yet":                        {folderView{own: absent, its: absent, sameName: true, sameRoot: true}, true},
		"neither is there, in a container":            {folderView{own: absent, its: absent, sameName: true}, false},
		"its folder is not there":                     {folderView{own: there, its: absent, sameName: true, sameRoot: true}, false},
		"the own folder is not there":                 {folderView{own: absent, its: there, sameName: true, sameRoot: true}, false},
	} {
		if got := c.view.one(); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// kubeletRole makes this binary a program that says that it is there and does nothing until its
// input ends.
const kubeletRole = "KUBEPKI_COMPONENT_TEST_KUBELET"

func TestMain(m *testing.M) {
	if os.Getenv(kubeletRole) != "" {
		_, _ = os.Stdout.WriteString("!")
		_, _ = os.Stdin.Read(make([]byte, 1))
		return
	}
	os.Exit(m.Run())
}

// A process of this machine that is called kubelet is found among all others, by a link to its
// folder as well.
func TestARealProcessIsFound(t *testing.T) {
	if _, err := os.Stat("/proc/self/comm"); err != nil {
		t.Skip("there is no /proc")
	}
	dir := t.TempDir()
	certs, link := filepath.Join(dir, "pki"), filepath.Join(dir, "link")
	if err := os.Mkdir(certs, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(certs, link); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "kubelet")
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	for _, flag := range []string{
		"--cert-dir=" + certs, "--cert-dir=" + link, "--cert-dir=pki", "--cert-dir=../" + filepath.Base(dir) + "/pki", "--cert_dir=" + certs,
	} {
		cmd := exec.CommandContext(t.Context(), program, flag)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), kubeletRole+"=1")
		input, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		output, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		// Start returns before the kernel has given the process its name and its command line.
		if _, err := output.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		all := RunningKubelets("/proc")
		i := slices.IndexFunc(all, func(k RunningKubelet) bool { return k.PID == cmd.Process.Pid })
		switch {
		case i < 0:
			comm, _ := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/comm")
			t.Errorf("%s: not found; it is called %q", flag, strings.TrimSpace(string(comm)))
		case !all[i].Keeps(certs) || all[i].Keeps(dir) || all[i].Keeps(filepath.Join(dir, "none")):
			t.Errorf("%s: %+v", flag, all[i])
		}
		_ = input.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}
