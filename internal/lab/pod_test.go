package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

const podYAML = `
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  terminationGracePeriodSeconds: 7
  containers:
  - name: web
    command: [web, --conf=/etc/web/web.conf, /etc/web, --name=web]
    args: ["--data=/data/x", "--url=https://192.0.2.1/a", "--other=/tmp/x", "--deep=/etc/web/deep/file"]
    volumeMounts:
    - {name: conf, mountPath: /etc/web}
    - {name: deep, mountPath: /etc/web/deep}
    - {name: data, mountPath: /data}
  volumes:
  - {name: conf, hostPath: {path: /srv/conf}}
  - {name: deep, hostPath: {path: /srv/deep, type: DirectoryOrCreate}}
  - {name: data, hostPath: {path: /../srv/data, type: DirectoryOrCreate}}
`

func TestPathsOfContainersGoThroughTheirMountsAndBelowRoot(t *testing.T) {
	p, err := parseStaticPod([]byte(podYAML), "/m/web.yaml", "cp1")
	if err != nil {
		t.Fatal(err)
	}
	have := p.argv(p.Spec.Containers[0], "/root")
	want := []string{
		"web", "--conf=/root/srv/conf/web.conf", "/root/srv/conf", "--name=web", "--data=/root/srv/data/x",
		"--url=https://192.0.2.1/a", "--other=/root/run/containerd/no-image/tmp/x", "--deep=/root/srv/deep/file",
	}
	if !slices.Equal(have, want) {
		t.Errorf("have\n%q, want\n%q", have, want)
	}
	if p.grace() != 7*time.Second || p.name != "web-cp1" || p.fullName() != "default/web-cp1" {
		t.Errorf("grace %s, name %s", p.grace(), p.fullName())
	}
}

func TestThePodsUIDFollowsContentFileAndNode(t *testing.T) {
	uid := func(data, file, node string) string {
		t.Helper()
		p, err := parseStaticPod([]byte(data), file, node)
		if err != nil {
			t.Fatal(err)
		}
		return p.uid
	}
	first := uid(podYAML, "/m/web.yaml", "cp1")
	if first != uid("# a comment\n"+podYAML, "/m/web.yaml", "cp1") {
		t.Error("a comment makes another pod")
	}
	for name, other := range map[string]string{
		"content": uid(strings.Replace(podYAML, "--name=web", "--name=wob", 1), "/m/web.yaml", "cp1"),
		"file":    uid(podYAML, "/m/other.yaml", "cp1"),
		"node":    uid(podYAML, "/m/web.yaml", "cp2"),
	} {
		if other == first {
			t.Errorf("another %s is the same pod", name)
		}
	}
}

func TestManifestsThatAreNone(t *testing.T) {
	for _, test := range []struct{ name, data, want string }{
		{"nothing", "", "not a Pod"},
		{"no YAML", "{", "read manifest"},
		{"another kind", "{apiVersion: v1, kind: Node}", "not a Pod"},
		{"no name", "{apiVersion: v1, kind: Pod}", "no name"},
		{"no containers", "{apiVersion: v1, kind: Pod, metadata: {name: a}}", "no containers"},
	} {
		t.Run(test.name, func(t *testing.T) {
			if _, err := parseStaticPod([]byte(test.data), "f", "n"); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("want an error with %q, have %v", test.want, err)
			}
		})
	}
}

func TestHostPathsArePreparedByTheirType(t *testing.T) {
	for _, test := range []struct {
		kind  string
		there string // "", "file" or "dir"
		after string
		fails bool
	}{
		{"", "", "", false},
		{"", "file", "file", false},
		{"DirectoryOrCreate", "", "dir", false},
		{"DirectoryOrCreate", "dir", "dir", false},
		{"DirectoryOrCreate", "file", "file", true},
		{"FileOrCreate", "", "file", false},
		{"FileOrCreate", "file", "file", false},
		{"FileOrCreate", "dir", "dir", true},
		{"Directory", "", "", true},
		{"Directory", "dir", "dir", false},
		{"File", "", "", true},
		{"File", "file", "file", false},
		{"File", "dir", "dir", true},
	} {
		t.Run(fmt.Sprintf("%s with %q there", test.kind, test.there), func(t *testing.T) {
			root := t.TempDir()
			path := filepath.Join(root, "x")
			switch test.there {
			case "file":
				if err := os.WriteFile(path, nil, 0o600); err != nil {
					t.Fatal(err)
				}
			case "dir":
				if err := os.Mkdir(path, 0o700); err != nil {
					t.Fatal(err)
				}
			}
			if err := (hostPath{"/x", test.kind}).prepare(root); (err != nil) != test.fails {
				t.Errorf("error %v", err)
			}
			have := ""
			if info, err := os.Stat(path); err == nil {
				have = map[bool]string{true: "dir", false: "file"}[info.IsDir()]
			}
			if have != test.after {
				t.Errorf("have %q, want %q", have, test.after)
			}
		})
	}
}

func TestEndedContainersWaitLongerEachTime(t *testing.T) {
	now := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	r := &podRuntime{now: func() time.Time { return now }}
	k := &kubelet{runtime: r, backoff: map[backoffKey]*backoff{}, node: &Node{
		now: r.now, times: times{restartBackoff: 10 * time.Second},
	}}
	s := &sandbox{pod: &staticPod{uid: "u"}}
	// died says that the container ended, and returns how long it then has to wait.
	died := func() time.Duration {
		c := &container{sandbox: s, spec: containerSpec{Name: "c"}, finished: now}
		for waited := time.Duration(0); ; waited += time.Second {
			if k.mayRestart(s, c) {
				return waited
			}
			now = now.Add(time.Second)
		}
	}
	for i, want := range []time.Duration{0, 10, 20, 40, 80, 160, 320, 320} {
		if have := died(); have != want*time.Second {
			t.Errorf("death %d: waited %s, want %s", i+1, have, want*time.Second)
		}
	}
	now = now.Add(641 * time.Second)
	if have := died(); have != 0 {
		t.Errorf("after a long good time: waited %s", have)
	}
}

func TestBlocksOfTwoLabsDiffer(t *testing.T) {
	a, err := claimBlock()
	if err != nil {
		t.Fatal(err)
	}
	b, err := claimBlock()
	if err != nil {
		t.Fatal(err)
	}
	defer b.release()
	if a.prefix == b.prefix {
		t.Errorf("both have %s", a.prefix)
	}
	if got := b.address(7); !b.prefix.Contains(got) || !got.IsLoopback() || got.As4()[3] != 7 {
		t.Errorf("address 7 of %s is %s", b.prefix, got)
	}
	if _, err := tryBlock(a.prefix); err == nil {
		t.Error("a block was claimed twice")
	}
	a.release()
	if _, err := os.Lstat(a.lock.Name()); err == nil {
		t.Errorf("%s is left", a.lock.Name())
	}
	again, err := tryBlock(a.prefix)
	if err != nil {
		t.Fatalf("a block that was given back: %v", err)
	}
	again.release()
}
