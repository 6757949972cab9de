// Package csrtest holds decision cases: small clusters, signing requests of honest and of hostile requesters, and the
// verdict that each must get. The cases are YAML, below testdata/cases of the package csr; start with Load. The pure
// decision, the review of files and the controller are tested with the same cases.
//
// It is for tests alone; no product code may import it.
package csrtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/internal/csr"
)

// Now is when the cases happen.
var Now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// Case is one request in one cluster.
type Case struct {
	// Name is a sentence; Theme is the file that it stands in.
	Name, Theme string
	Policy      csr.Policy
	Request     *certificatesv1.CertificateSigningRequest
	// Objects are the cluster's, other signing requests among them.
	Objects      []runtime.Object
	Observations csr.Observations
	Now          time.Time

	Verdict csr.Verdict
	Reason  string
	// Risks must be among those of the decision.
	Risks []string

	objects []map[string]any
}

// file is one theme.
type file struct {
	// Policy and Objects are those of all cases in the file; the cluster of base.yaml comes before.
	Policy  map[string]any   `json:"policy"`
	Objects []map[string]any `json:"objects"`
	Cases   []written        `json:"cases"`
}

// written is a case as it stands in its file.
type written struct {
	Name   string         `json:"name"`
	Policy map[string]any `json:"policy"`
	// Add are further objects, Change are merge patches by "Kind/name", Remove takes objects away.
	Add     []map[string]any          `json:"add"`
	Change  map[string]map[string]any `json:"change"`
	Remove  []string                  `json:"remove"`
	Request request                   `json:"request"`
	// Others are further requests in the cluster.
	Others []request       `json:"others"`
	Served *served         `json:"served"`
	DNS    *resolved       `json:"dns"`
	After  metav1.Duration `json:"after"` // the time that has passed since Now
	Want   string          `json:"want"`  // "Verdict Reason"
	Risks  []string        `json:"risks"`
}

// Load reads all cases. Keys and certificates are new each time.
func Load(t testing.TB) []Case {
	t.Helper()
	folder := filepath.Join(root(t), "internal/csr/testdata/cases")
	var base file
	read(t, filepath.Join(folder, "base.yaml"), &base)
	names, err := filepath.Glob(filepath.Join(folder, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var cases []Case
	seen := map[string]string{}
	for _, name := range names {
		theme := strings.TrimSuffix(filepath.Base(name), ".yaml")
		if theme == "base" {
			continue
		}
		var f file
		read(t, name, &f)
		for _, w := range f.Cases {
			c, err := w.build(base, f)
			if err != nil {
				t.Fatalf("%s: %s: %v", theme, w.Name, err)
			}
			if other := seen[c.Name]; other != "" || c.Name == "" {
				t.Fatalf("%s: the case %q is in %s already, or has no name", theme, c.Name, other)
			}
			seen[c.Name], c.Theme = theme, theme
			cases = append(cases, *c)
		}
	}
	return cases
}

// root is the folder of the module.
func root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	for ; err == nil; dir = filepath.Dir(dir) {
		if _, missing := os.Stat(filepath.Join(dir, "go.mod")); missing == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			err = errors.New("there is no go.mod above")
		}
	}
	t.Fatal(err)
	return ""
}

func read(t testing.TB, name string, into any) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err == nil {
		err = yaml.UnmarshalStrict(data, into)
	}
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

func (w *written) build(base, f file) (*Case, error) {
	verdict, reason, ok := strings.Cut(w.Want, " ")
	if !ok {
		return nil, fmt.Errorf("want %q is not a verdict and a reason", w.Want)
	}
	c := &Case{Name: w.Name, Now: Now.Add(w.After.Duration), Verdict: csr.Verdict(verdict), Reason: reason, Risks: w.Risks}
	var err error
	if c.Policy, err = policy(base.Policy, f.Policy, w.Policy); err != nil {
		return nil, err
	}
	if c.objects, err = w.cluster(base.Objects, f.Objects); err != nil {
		return nil, err
	}
	for _, o := range w.Others {
		r, err := o.object()
		if err != nil {
			return nil, err
		}
		m, err := runtime.DefaultUnstructuredConverter.ToUnstructured(r)
		if err != nil {
			return nil, err
		}
		c.objects = append(c.objects, m)
	}
	if c.Objects, err = csr.ReadObjects(c.ObjectsYAML()); err != nil {
		return nil, err
	}
	if c.Request, err = w.Request.object(); err != nil {
		return nil, err
	}
	if c.Observations.Served, err = w.Served.observation(); err != nil {
		return nil, err
	}
	c.Observations.DNS, err = w.DNS.observation()
	return c, err
}

// policy puts changes onto the default, one after the other.
func policy(changes ...map[string]any) (csr.Policy, error) {
	merged := map[string]any{}
	for _, change := range changes {
		merge(merged, change)
	}
	p := csr.DefaultPolicy()
	// A decoder would merge the elements of a list with those that are there.
	for path, reset := range map[[2]string]func(){
		{"signers", ""}:             func() { p.Signers = nil },
		{"keys", "curves"}:          func() { p.Keys.Curves = nil },
		{"bootstrap", "requesters"}: func() { p.Bootstrap.Requesters = nil },
	} {
		value, ok := merged[path[0]]
		if section, is := value.(map[string]any); is && path[1] != "" {
			_, ok = section[path[1]]
		}
		if ok {
			reset()
		}
	}
	data, err := yaml.Marshal(merged)
	if err != nil {
		return p, err
	}
	if err := yaml.UnmarshalStrict(data, &p); err != nil {
		return p, fmt.Errorf("policy: %w", err)
	}
	return p, p.Validate()
}

// merge applies a JSON merge patch (RFC 7386).
func merge(into, patch map[string]any) {
	for key, value := range patch {
		section, is := value.(map[string]any)
		old, was := into[key].(map[string]any)
		switch {
		case value == nil:
			delete(into, key)
		case is && was:
			merge(old, section)
		case is:
			fresh := map[string]any{}
			merge(fresh, section)
			into[key] = fresh
		default:
			into[key] = value
		}
	}
}

// cluster returns the objects of a case; later ones replace earlier ones.
func (w *written) cluster(lists ...[]map[string]any) ([]map[string]any, error) {
	var order []string
	objects := map[string]map[string]any{}
	for _, list := range append(lists, w.Add) {
		for _, o := range list {
			id := identity(o)
			if objects[id] == nil {
				order = append(order, id)
			}
			fresh := map[string]any{} // cases share no maps
			merge(fresh, o)
			objects[id] = fresh
		}
	}
	for id, patch := range w.Change {
		if objects[id] == nil {
			return nil, fmt.Errorf("there is no %s to change", id)
		}
		merge(objects[id], patch)
	}
	for _, id := range w.Remove {
		if objects[id] == nil {
			return nil, fmt.Errorf("there is no %s to remove", id)
		}
		delete(objects, id)
	}
	var left []map[string]any
	for _, id := range order {
		if objects[id] != nil {
			left = append(left, objects[id])
		}
	}
	return left, nil
}

func identity(o map[string]any) string {
	metadata, _ := o["metadata"].(map[string]any)
	return fmt.Sprintf("%v/%v", o["kind"], metadata["name"])
}

// ObjectsYAML are the objects as a file.
func (c *Case) ObjectsYAML() []byte { return documents(c.objects) }

// RequestYAML is the request as a file.
func (c *Case) RequestYAML() ([]byte, error) { return yaml.Marshal(c.Request) }

// Configuration is the policy as a ControllerConfiguration.
func (c *Case) Configuration() ([]byte, error) {
	return json.Marshal(map[string]any{"apiVersion": "kubepki.io/v1alpha1", "kind": "ControllerConfiguration", "approver": c.Policy})
}

// World is the cluster of the case.
func (c *Case) World() (*csr.World, error) {
	w := csr.NewWorld(c.Policy)
	for _, o := range c.Objects {
		if _, err := w.Add(o); err != nil {
			return nil, err
		}
	}
	_, err := w.Add(c.Request)
	return w, err
}

func documents(objects []map[string]any) []byte {
	var out bytes.Buffer
	for _, o := range objects {
		data, err := json.Marshal(o) // JSON is YAML
		if err != nil {
			panic(err) //nolint:forbidigo // it was read from YAML
		}
		fmt.Fprintf(&out, "---\n%s\n", data)
	}
	return out.Bytes()
}

// Unstructured are the objects as they are written, to be sent to an API server.
func (c *Case) Unstructured() []*unstructured.Unstructured {
	list := make([]*unstructured.Unstructured, 0, len(c.objects))
	for _, o := range c.objects {
		data, err := json.Marshal(o)
		var copied map[string]any
		if err == nil {
			err = json.Unmarshal(data, &copied)
		}
		if err != nil {
			panic(err) //nolint:forbidigo // it was read from YAML
		}
		list = append(list, &unstructured.Unstructured{Object: copied})
	}
	return list
}
