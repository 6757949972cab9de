package lab

import (
	"bytes"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/layout"
)

// kubeadmConfig is for an address that kubeadm takes: it refuses the lab's loopback ones.
const kubeadmConfig = `
apiVersion: kubeadm.k8s.io/v1beta4
kind: InitConfiguration
nodeRegistration: {name: cp1}
localAPIEndpoint: {advertiseAddress: 192.0.2.10}
---
apiVersion: kubeadm.k8s.io/v1beta4
kind: ClusterConfiguration
kubernetesVersion: ` + kubernetesVersion + "\n"

func testPlane() controlPlane {
	c := layout.Default()
	c.NodeName, c.AdvertiseAddress = "cp1", netip.MustParseAddr("192.0.2.10")
	return controlPlane{cluster: c, members: []member{{"cp1", c.AdvertiseAddress}}}
}

func TestManifestsAreKubeadmsButForAddressesAndImages(t *testing.T) {
	bin, err := FindPrograms()
	kubeadm := filepath.Join(bin, "kubeadm")
	if err == nil {
		_, err = os.Stat(kubeadm)
	}
	if err != nil && os.Getenv("CI") == "true" {
		t.Fatal(err)
	} else if err != nil {
		t.Skip("no kubeadm: ", err)
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yaml")
	if err := os.WriteFile(config, []byte(kubeadmConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, phase := range [][]string{{"control-plane", "all"}, {"etcd", "local"}} {
		cmd := exec.CommandContext(t.Context(), kubeadm, append(append([]string{"init", "phase"}, phase...), "--config", config, "--dry-run")...)
		cmd.Env = append(os.Environ(), "KUBEADM_INIT_DRYRUN_DIR="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	ours, err := testPlane().manifests()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range programs {
		theirs, err := os.ReadFile(filepath.Join(dir, name+".yaml"))
		if err != nil {
			t.Fatal(err)
		}
		have, want := strings.Split(string(withoutLabFlags(ours[name])), "\n"), strings.Split(string(withLabAddresses(theirs)), "\n")
		for i := range max(len(have), len(want)) {
			if i >= len(have) || i >= len(want) || have[i] != want[i] {
				t.Errorf("%s: from line %d on have\n%s\nwant\n%s", name, i+1, strings.Join(have[min(i, len(have)):], "\n"), strings.Join(want[min(i, len(want)):], "\n"))
				break
			}
		}
	}
}

var image = regexp.MustCompile(`image: \S*?([a-z-]+):\S+`)

// withLabAddresses does to kubeadm's manifest what the lab does on purpose.
func withLabAddresses(data []byte) []byte {
	text := strings.ReplaceAll(string(data), "https://127.0.0.1:2379,https://", "https://")
	text = strings.ReplaceAll(text, "127.0.0.1", "192.0.2.10")
	return []byte(image.ReplaceAllString(text, "image: $1"))
}

func withoutLabFlags(data []byte) []byte {
	for _, flag := range []string{"    - --bind-address=192.0.2.10\n", "    - --endpoint-reconciler-type=none\n"} {
		if bytes.Contains(data, []byte("- kube-apiserver\n")) {
			data = bytes.ReplaceAll(data, []byte(flag), nil)
		}
	}
	return image.ReplaceAll(data, []byte("image: $1"))
}

func TestExtraArgumentsWin(t *testing.T) {
	p := testPlane()
	p.extra = map[string]map[string]string{apiServer: {"v": "4", "allow-privileged": "false"}}
	files, err := p.manifests()
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"- --v=4\n", "- --allow-privileged=false\n"} {
		if !bytes.Contains(files[apiServer], []byte(want)) {
			t.Errorf("no %q in\n%s", want, files[apiServer])
		}
	}
	if bytes.Contains(files[apiServer], []byte("allow-privileged=true")) {
		t.Error("the usual flag is still there")
	}
}

func TestMembersOfEtcdKnowEachOther(t *testing.T) {
	p := testPlane()
	p.members = append(p.members, member{"cp2", netip.MustParseAddr("192.0.2.11")})
	files, err := p.manifests()
	if err != nil {
		t.Fatal(err)
	}
	const want = "- --initial-cluster=cp1=https://192.0.2.10:2380,cp2=https://192.0.2.11:2380\n"
	if !bytes.Contains(files[etcd], []byte(want)) {
		t.Errorf("no %q in\n%s", want, files[etcd])
	}
}
