package cli

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/atomicfile"
	"github.com/kubepki/kubepki/internal/kube"
	"github.com/kubepki/kubepki/internal/kubeletcert"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/testpki"
)

// configMaps are the KubeletConfigurations of a cluster.
type configMaps struct {
	data   map[string]string
	refuse bool
	before func() error // called before each write
}

func (c *configMaps) KubeletConfigs(context.Context) ([]kube.KubeletConfig, error) {
	var list []kube.KubeletConfig
	for _, name := range slices.Sorted(maps.Keys(c.data)) {
		list = append(list, kube.KubeletConfig{Name: name, Data: []byte(c.data[name])})
	}
	return list, nil
}

func (c *configMaps) ChangeKubeletConfig(_ context.Context, name string, dryRun bool, change func([]byte) ([]byte, error)) error {
	if c.refuse {
		return errRefused
	}
	data, err := change([]byte(c.data[name]))
	if err != nil || dryRun {
		return err
	}
	if err := c.before(); err != nil {
		return err
	}
	c.data[name] = string(data)
	return nil
}

var errRefused = errors.New("forbidden")

// switched is a control plane and its cluster, in which a feature is switched.
type switched struct {
	*testpki.Machine
	cluster *configMaps
}

const (
	switchedFile = "# By hand.\nkind: KubeletConfiguration\nrotateCertificates: true\nstaticPodPath: /etc/kubernetes/manifests\n"
	switchedMap  = "kind: KubeletConfiguration\nserverTLSBootstrap: false # not yet\nunknown: 0x10\n"
)

func newSwitched(t *testing.T) *switched {
	t.Helper()
	made := time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)
	s := &switched{testpki.NewControlPlane(t, testpki.Cluster(), made, made), &configMaps{
		data: map[string]string{"kubelet-config": switchedMap}, before: func() error { return nil },
	}}
	s.Write(testpki.KubeletConfig, []byte(switchedFile), 0o644)
	return s
}

// run is a run of the command, but for what it does with a kubelet that runs.
func (s *switched) run(ctx context.Context, on bool, fsys atomicfile.FS) (*KubeletSwitch, error) {
	a := &app{root: s.Root, log: slog.New(slog.DiscardHandler), Env: Env{
		Stdout: io.Discard, Stderr: io.Discard, FS: fsys, Now: func() time.Time { return s.Made.Add(time.Hour) },
	}}
	n, err := a.kubeletNode(ctx, toWrite)
	if err != nil {
		return nil, err
	}
	defer n.tree.Close()
	run := &kubeletSwitchRun{app: a, on: on, feature: kubeletcert.ServingBootstrap}
	done := &KubeletSwitch{}
	if done.Changes, err = run.plan(ctx, n, s.cluster); err != nil {
		return nil, err
	}
	return done, run.write(ctx, n, s.cluster, done)
}

// saved says whether a backup has the old text of the ConfigMap.
func (s *switched) saved(t *testing.T) bool {
	t.Helper()
	tree, err := pkidir.Open(t.Context(), s.Options(s.Made))
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	backups, err := tree.Backups()
	if err != nil {
		t.Fatal(err)
	}
	return slices.ContainsFunc(backups, func(b pkidir.Backup) bool {
		data, err := tree.Saved(b, "kubelet-config.configmap.yaml")
		return err == nil && string(data) == switchedMap
	})
}

func (s *switched) want(t *testing.T, file, configMap string) {
	t.Helper()
	if got := string(s.Read(testpki.KubeletConfig)); got != file {
		t.Errorf("the file is\n%s", got)
	}
	if got := s.cluster.data["kubelet-config"]; got != configMap {
		t.Errorf("the ConfigMap is\n%s", got)
	}
}

var (
	switchedFileOn = strings.Replace(switchedFile, "staticPodPath", "serverTLSBootstrap: true\nstaticPodPath", 1)
	switchedMapOn  = strings.Replace(switchedMap, "false", "true", 1)
)

func TestSwitchingBackLeavesNoTrace(t *testing.T) {
	s := newSwitched(t)
	for _, on := range []bool{true, false, true, false} {
		if _, err := s.run(t.Context(), on, atomicfile.FS{}); err != nil {
			t.Fatal(err)
		}
		if on {
			s.want(t, switchedFileOn, switchedMapOn)
		} else {
			s.want(t, switchedFile, switchedMap)
		}
	}
	// What somebody has changed since stays.
	if _, err := s.run(t.Context(), true, atomicfile.FS{}); err != nil {
		t.Fatal(err)
	}
	s.Write(testpki.KubeletConfig, []byte(switchedFileOn+"zone: a\n"), 0o644)
	if _, err := s.run(t.Context(), false, atomicfile.FS{}); err != nil {
		t.Fatal(err)
	}
	s.want(t, strings.Replace(switchedFileOn, "true\nstatic", "false\nstatic", 1)+"zone: a\n", switchedMap)
}

func TestARefusedSwitchChangesNothing(t *testing.T) {
	s := newSwitched(t)
	s.cluster.refuse = true
	if done, err := s.run(t.Context(), true, atomicfile.FS{}); !errors.Is(err, errRefused) || done.Backup != "" {
		t.Errorf("%+v, %v", done, err)
	}
	s.want(t, switchedFile, switchedMap)
}

// A dry run is as wrong as the real one would be.
func TestADryRunAsksTheAPIServer(t *testing.T) {
	s := newSwitched(t)
	run := &kubeletSwitchRun{on: true, feature: kubeletcert.ServingBootstrap, dryRun: true}
	change := ConfigChange{configMap: "kubelet-config", before: []byte(switchedMap), after: []byte(switchedMapOn), Changed: true}
	if err := run.ask(t.Context(), s.cluster, []ConfigChange{change}); err != nil {
		t.Error(err)
	}
	s.cluster.refuse = true
	if err := run.ask(t.Context(), s.cluster, []ConfigChange{change}); !errors.Is(err, errRefused) {
		t.Errorf("got %v", err)
	}
	change.Changed = false
	if err := run.ask(t.Context(), s.cluster, []ConfigChange{change}); err != nil {
		t.Errorf("nothing is to be changed: %v", err)
	}
	s.want(t, switchedFile, switchedMap)
}

// Wherever a run ends, by a kill or by a disk that fails once, each configuration is the old or
// the new one, the old text of the ConfigMap is saved before it changes, and the next run
// completes what this one began.
func TestEnableStopsAtEachOperation(t *testing.T) {
	for name, lasting := range map[string]bool{"killed": true, "the disk fails once": false} {
		t.Run(name, func(t *testing.T) {
			n, met := int64(1), true
			for ; met && !t.Failed(); n++ {
				met = enableAndFail(t, n, lasting)
			}
			if n < 30 {
				t.Errorf("only %d operations were met", n-1)
			}
		})
	}
}

// enableAndFail lets the nth change of the disk or the cluster fail, and after a kill all later
// ones. It says whether there were as many.
func enableAndFail(t *testing.T, n int64, lasting bool) (met bool) {
	s := newSwitched(t)
	trouble := &trouble{at: n, lasting: lasting}
	s.cluster.before = trouble.next
	_, err := s.run(t.Context(), true, atomicfile.FS{Before: func(atomicfile.Op, string) error { return trouble.next() }})
	if err != nil && !errors.Is(err, syscall.EIO) {
		t.Errorf("operation %d: %v", n, err)
	}
	s.cluster.before = func() error { return nil }
	if file := string(s.Read(testpki.KubeletConfig)); file != switchedFile && file != switchedFileOn {
		t.Errorf("operation %d: the file is\n%s", n, file)
	}
	if s.cluster.data["kubelet-config"] != switchedMap && !s.saved(t) {
		t.Errorf("operation %d: the old text of the ConfigMap is lost", n)
	}
	if err != nil {
		if _, err := s.run(t.Context(), true, atomicfile.FS{}); err != nil {
			t.Errorf("operation %d: the next run: %v", n, err)
		}
	}
	s.want(t, switchedFileOn, switchedMapOn)
	if !s.saved(t) {
		t.Errorf("operation %d: the old text of the ConfigMap is not saved", n)
	}
	return trouble.met()
}
