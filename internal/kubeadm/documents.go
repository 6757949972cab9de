package kubeadm

import (
	"bytes"
	"errors"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
)

// API groups of the documents that belong in the file.
const (
	groupKubeadm   = "kubeadm.k8s.io"
	groupKubelet   = "kubelet.config.k8s.io"
	groupKubeProxy = "kubeproxy.config.k8s.io"
)

// document is one document of the file: the values of its known fields by their path, such
// as "networking.serviceSubnet".
type document struct {
	kind, version string
	values        map[string]value
}

type value struct {
	line    int
	content any // string, int64, bool, time.Duration, []string; nil for a mapping or a list of mappings
}

// documents reads every document of the file and returns those that count, by kind.
// Documents that are empty or hold comments only are skipped; kubeadm refuses them.
func (r *report) documents(data []byte) map[string]*document {
	found := map[string]*document{}
	lines := map[string]int{} // by group and kind
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	for {
		root, err := next(decoder)
		if errors.Is(err, io.EOF) {
			return found
		}
		if err != nil {
			r.syntax(err)
			return found
		}
		if root == nil || isNull(root) {
			continue
		}
		id, ok := r.identify(root)
		if !ok {
			continue
		}
		if first, twice := lines[id.group+"/"+id.kind]; twice {
			r.fault(position{line: root.Line, kind: named(id.kind)}, "there is one already at line %d", first)
			continue
		}
		lines[id.group+"/"+id.kind] = root.Line
		if r.wanted(id, root.Line) {
			d := &document{kind: id.kind, version: id.version, values: map[string]value{}}
			(&decoding{report: r, document: d}).read(root, schemas()[id.kind], position{line: root.Line, kind: id.kind})
			found[id.kind] = d
		}
	}
}

// next returns the root of the file's next document, io.EOF after the last.
func next(decoder *yaml.Decoder) (root *yaml.Node, err error) {
	defer func() { // the library panics where it doubts itself
		if recover() != nil {
			err = errors.New("the parser gave up")
		}
	}()
	var document yaml.Node
	if err := decoder.Decode(&document); err != nil || len(document.Content) == 0 {
		return nil, err
	}
	return document.Content[0], nil
}

var lineNumber = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`line (\d+): `) })

// syntax reports that the file is no YAML. The library's messages are fixed texts, but for the
// name of an unknown anchor, which may be a secret that begins with "*".
func (r *report) syntax(err error) {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	if strings.HasPrefix(message, "unknown anchor") {
		message = "an alias (*name) has no anchor (&name)"
	}
	var p position
	if found := lineNumber().FindStringSubmatch(message); found != nil {
		p.line, _ = strconv.Atoi(found[1])
		message = strings.Replace(message, found[0], "", 1)
	}
	r.fault(p, "not valid YAML or JSON: %s", message)
}

// identity is what a document says it is.
type identity struct{ group, version, kind string }

// identify reads apiVersion and kind.
func (r *report) identify(root *yaml.Node) (identity, bool) {
	at := position{line: root.Line}
	if root.Kind != yaml.MappingNode {
		r.fault(at, "want a document with apiVersion and kind, found %s", describe(root))
		return identity{}, false
	}
	given := map[string]string{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		if name, v := root.Content[i].Value, root.Content[i+1]; v.Kind == yaml.ScalarNode && !isNull(v) {
			given[name] = v.Value
		}
	}
	apiVersion, kind := given["apiVersion"], given["kind"]
	for _, name := range []string{"apiVersion", "kind"} {
		if given[name] == "" {
			r.fault(at, "the document has no %s", name)
		}
	}
	if apiVersion == "" || kind == "" {
		return identity{}, false
	}
	group, version, ok := strings.Cut(apiVersion, "/")
	if !ok {
		at.kind = named(kind)
		if kind == "ConfigMap" {
			r.fault(at, "want kubeadm's configuration itself, which is the text below data.%s", kindCluster)
		} else {
			r.fault(at, "apiVersion %s has no group: want %s/%s", quoted(apiVersion), groupKubeadm, v1beta4)
		}
		return identity{}, false
	}
	return identity{group, version, kind}, true
}

// migrators names the kubeadm that converts an old version of the configuration to a newer one.
var migrators = map[string]string{
	"v1alpha1": "v1.11", "v1alpha2": "v1.12", "v1alpha3": "v1.14", "v1beta1": "v1.15", "v1beta2": "v1.22",
}

// wanted decides whether a document is read.
func (r *report) wanted(id identity, line int) bool {
	at := position{line: line, kind: named(id.kind)}
	switch id.group {
	case groupKubeadm:
		return r.wantedOfKubeadm(id, at)
	case groupKubelet:
		if id.kind == kindKubelet && id.version != "v1beta1" {
			r.fault(at, "unknown version %s: want %s/v1beta1", quoted(id.version), groupKubelet)
			return false
		}
		if id.kind == kindKubelet {
			return true
		}
	case groupKubeProxy:
		return false // it belongs here and says nothing about certificates
	}
	r.ignore(id, at, "ignored: documents of %s say nothing about the cluster's certificates", quoted(id.group))
	return false
}

func (r *report) wantedOfKubeadm(id identity, at position) bool {
	switch migrator, old := migrators[id.version]; {
	case old:
		r.fault(at, "%s/%s is too old: convert the file with \"kubeadm config migrate\" of kubeadm %s",
			groupKubeadm, id.version, migrator)
		return false
	case id.version != v1beta3 && id.version != v1beta4:
		r.fault(at, "unknown version %s: want %s/%s or %s", quoted(id.version), groupKubeadm, v1beta4, v1beta3)
		return false
	}
	readable := []string{kindCluster, kindInit}
	if !slices.Contains(readable, id.kind) {
		hint := ""
		if meant := suggest(id.kind, readable); meant != "" {
			hint = "; did you mean " + meant + "?"
		}
		r.ignore(id, at, "ignored: only %s and %s are read%s", kindCluster, kindInit, hint)
		return false
	}
	if id.version == v1beta3 {
		r.warn(at, "%s/%s is deprecated: \"kubeadm config migrate\" converts it to %s", groupKubeadm, v1beta3, v1beta4)
	}
	return true
}

func (r *report) ignore(id identity, at position, format string, args ...any) {
	r.ignored = append(r.ignored, at.kind+" of "+quoted(id.group))
	r.warn(at, format, args...)
}
