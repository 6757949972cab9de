// Package kubepki_test holds the rules of the house: who may import whom, what every
// package has to say about itself, what go.mod may hold.
package kubepki_test

import (
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kubepki/kubepki"

// rule says what a package of the product may import. The standard library is always
// allowed, except where never names a part of it.
type rule struct {
	house   []string // packages of the house
	outside []string // modules, by prefix of the import path
	never   []string // what must not be reached at all, not even through others
}

// offline packages work on the bad day, when nothing answers: they must not even link
// what talks to a cluster.
var offline = []string{"k8s.io/client-go", "net/http"}

// noClient is for packages that talk to servers, but not to the Kubernetes API: that is
// for internal/kube alone.
var noClient = []string{"k8s.io/client-go"}

// rules is the import table. A package that is not in it is an error, so that each new
// one gets its place on purpose.
var rules = map[string]rule{
	"pki":                  {never: offline},
	"internal/atomicfile":  {outside: []string{"golang.org/x/sys/unix"}, never: offline},
	"internal/headroom":    {never: offline},
	"internal/strictyaml":  {outside: []string{"sigs.k8s.io/yaml"}, never: offline},
	"internal/yamledit":    {outside: []string{"go.yaml.in/yaml/v3"}, never: offline},
	"layout":               {house: []string{"pki"}, never: offline},
	"internal/kubeconfig":  {house: []string{"pki", "internal/yamledit"}, outside: []string{"go.yaml.in/yaml/v3"}, never: offline},
	"internal/kubeadm":     {house: []string{"pki", "layout"}, outside: []string{"go.yaml.in/yaml/v3"}, never: offline},
	"internal/snapshot":    {house: []string{"pki", "layout", "internal/kubeconfig"}, never: offline},
	"internal/pkidir":      {house: []string{"pki", "layout", "internal/atomicfile"}, never: offline},
	"internal/create":      {house: level3, never: offline},
	"internal/renew":       {house: level3, never: offline},
	"internal/external":    {house: level3, never: offline},
	"internal/inventory":   {house: level3, outside: []string{"software.sslmate.com/src/go-pkcs12"}, never: offline},
	"internal/component":   {house: []string{"pki", "layout", "internal/kubeconfig", "internal/atomicfile"}, outside: []string{"sigs.k8s.io/yaml"}, never: offline},
	"internal/copies":      {house: level3, never: offline},
	"internal/recovery":    {house: append([]string{"internal/component"}, level3...), outside: []string{"sigs.k8s.io/yaml"}, never: offline},
	"internal/kubeletcert": {house: []string{"pki", "internal/component", "internal/kubeconfig", "internal/yamledit"}, never: offline},
	"internal/etcd":        {house: []string{"pki"}, outside: []string{"go.etcd.io/etcd", "google.golang.org/grpc", "go.uber.org/zap"}, never: noClient},
	"internal/proof": {
		house: []string{"pki", "layout", "internal/component", "internal/etcd", "internal/kubeconfig", "internal/snapshot"},
		never: noClient,
	},
	"internal/restart": {
		house: []string{"pki", "internal/component", "internal/etcd", "internal/atomicfile"},
		outside: []string{
			"k8s.io/cri-api", "google.golang.org/grpc", "github.com/coreos/go-systemd", "github.com/godbus/dbus",
			"github.com/fsnotify/fsnotify",
		},
		never: noClient,
	},
	"internal/kube": {
		house:   []string{"pki", "layout", "internal/kubeconfig"},
		outside: []string{"k8s.io/client-go", "k8s.io/api", "k8s.io/apimachinery"},
	},
	"internal/rotation": {house: []string{"pki", "internal/atomicfile"}, never: offline},
	"internal/csr": {
		house:   []string{"pki", "internal/strictyaml"},
		outside: []string{"k8s.io/api", "k8s.io/apimachinery", "cel.dev/cel-go", "sigs.k8s.io/yaml"},
		never:   []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime"},
	},
	"internal/csr/csrtest": {house: []string{"pki", "internal/csr"}, outside: []string{"k8s.io/api", "k8s.io/apimachinery", "sigs.k8s.io/yaml"}},
	"internal/config": {
		house:   []string{"internal/csr", "internal/strictyaml"},
		outside: []string{"k8s.io/apimachinery", "sigs.k8s.io/yaml"},
		never:   []string{"k8s.io/client-go", "sigs.k8s.io/controller-runtime"},
	},
	"internal/controller": {
		house: []string{"pki", "internal/csr", "internal/config", "internal/kube"},
		outside: []string{
			"sigs.k8s.io/controller-runtime", "k8s.io/client-go", "k8s.io/api", "k8s.io/apimachinery", "github.com/prometheus/client_golang",
			"github.com/go-logr/logr", "k8s.io/klog/v2", "golang.org/x/time",
		},
	},
	"internal/hook":  {house: []string{"internal/atomicfile"}, never: noClient},
	"internal/serve": {house: []string{"internal/rotation"}, outside: []string{"github.com/prometheus/client_golang"}, never: noClient},
	"internal/cli": {
		house: append([]string{
			"internal/csr", "internal/config", "internal/controller", "internal/rotation", "internal/hook", "internal/serve", "internal/headroom",
			"internal/create", "internal/renew", "internal/external", "internal/inventory", "internal/kubeadm",
			"internal/component", "internal/copies", "internal/kubeletcert", "internal/recovery", "internal/proof", "internal/restart", "internal/kube", "internal/etcd",
		}, level3...),
		outside: []string{
			"github.com/spf13/cobra", "github.com/spf13/pflag", "golang.org/x/term",
			"sigs.k8s.io/yaml", "k8s.io/client-go/util/jsonpath", "k8s.io/client-go/rest", "k8s.io/api", "k8s.io/apimachinery",
		},
	},
	"internal/testpki": {house: append([]string{"internal/create"}, level3...), never: offline},
	"cmd/kubepki":      {house: []string{"internal/cli"}},
	"cmd/kubepki-man":  {house: []string{"internal/cli"}, outside: []string{"github.com/spf13/cobra"}},
}

// level3 is what the packages that do one job each may use; they are strangers to each
// other.
var level3 = []string{"pki", "layout", "internal/kubeconfig", "internal/snapshot", "internal/pkidir", "internal/atomicfile"}

// tools are not part of the product and may import what they like.
var tools = []string{"bench", "test/", "internal/lab", "cmd/kubepki-lab"}

type goPackage struct {
	ImportPath    string
	Dir           string
	GoFiles       []string
	Imports, Deps []string
}

func list(t *testing.T) []goPackage {
	t.Helper()
	cmd := exec.Command("go", "list", "-json=ImportPath,Dir,GoFiles,Imports,Deps", "./...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var packages []goPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		if len(p.GoFiles) > 0 {
			packages = append(packages, p)
		}
	}
}

func isTool(name string) bool {
	return slices.ContainsFunc(tools, func(prefix string) bool { return name == prefix || strings.HasPrefix(name, prefix) })
}

func TestImportTable(t *testing.T) {
	seen := map[string]bool{}
	for _, p := range list(t) {
		name := strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/")
		seen[name] = true
		if isTool(name) {
			continue
		}
		r, known := rules[name]
		if !known {
			t.Errorf("package %s has no place in the import table", name)
			continue
		}
		for _, path := range p.Imports {
			if !r.allows(path) {
				t.Errorf("%s must not import %s", name, path)
			}
		}
		for _, path := range p.Deps {
			for _, never := range r.never {
				if path == never || strings.HasPrefix(path, never+"/") {
					t.Errorf("%s must not reach %s", name, path)
				}
			}
		}
	}
	for name := range rules {
		if !seen[name] {
			t.Errorf("the import table names %s, which is not there", name)
		}
	}
}

func (r rule) allows(path string) bool {
	if house, ok := strings.CutPrefix(path, module+"/"); ok {
		return slices.Contains(r.house, house)
	}
	first, _, _ := strings.Cut(path, "/")
	if !strings.Contains(first, ".") {
		return true
	}
	return slices.ContainsFunc(r.outside, func(prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") })
}

// The product works with files and sockets itself; it runs no openssl, kubectl, crictl or
// systemctl. internal/restart runs one thing: the command that the user gives for hosts
// without systemd; internal/hook the commands that the user wants to be told by.
func TestProductRunsNoOtherProgram(t *testing.T) {
	for _, p := range list(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		if !isTool(name) && name != "internal/restart" && name != "internal/hook" && slices.Contains(p.Imports, "os/exec") {
			t.Errorf("%s imports os/exec", name)
		}
	}
}

func TestEveryPackageHasItsPage(t *testing.T) {
	for _, p := range list(t) {
		var comments []string
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, name), nil, parser.PackageClauseOnly|parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if file.Doc != nil {
				comments = append(comments, file.Doc.Text())
			}
		}
		if len(comments) != 1 || len(strings.Fields(comments[0])) < 5 {
			t.Errorf("%s: want one package comment, have %d", p.ImportPath, len(comments))
		}
	}
}

func TestGoModHasNoReplace(t *testing.T) {
	data, err := os.ReadFile("go.mod")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if strings.HasPrefix(strings.TrimSpace(line), "replace") {
			t.Errorf("go.mod: %s", line)
		}
	}
}

// Names under which nobody finds anything.
func TestNoDrawers(t *testing.T) {
	for _, p := range list(t) {
		for _, drawer := range []string{"util", "utils", "common", "helper", "helpers", "types", "shared", "base", "misc"} {
			if filepath.Base(p.ImportPath) == drawer {
				t.Errorf("%s: name the package after what it does", p.ImportPath)
			}
		}
	}
}
