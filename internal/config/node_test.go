package config_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/config"
)

const nodeHead = "apiVersion: kubepki.io/v1alpha1\nkind: NodeConfiguration\n"

// Every field that a NodeConfiguration has.
const fullNode = nodeHead + `nodeName: bm-1
nodeIPs: [10.0.0.41, "fd00::41"]
nodeLabels: {site: north}
kubeconfig: kubelet.conf
bootstrapKubeconfig: /etc/kubernetes/bootstrap-kubelet.conf
certDir: pki
rotateCertificates: true
rotateServerCertificates: true
identities:
- name: cni
  signer: example.com/cni
  commonName: cni-bm-1
  organizations: [cni]
  dnsNames: [cni.bm-1.example.com]
  ipAddresses: [10.0.0.41]
  usages: [digital signature, client auth, server auth]
  expirationSeconds: 86400
  certDir: cni
hooks:
- {command: [./reload, now], timeout: 5s}
- {identities: [server], signal: {pidFile: run/agent.pid, signal: HUP}}
- {identities: [cni, client], http: {url: "http://127.0.0.1:9000/reload", method: PUT}}
`

func TestLoadNode(t *testing.T) {
	n, err := config.LoadNode([]byte(fullNode))
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Check(); err != nil {
		t.Fatal(err)
	}
	text, err := n.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	again, err := config.LoadNode(text)
	if err != nil {
		t.Fatal(err)
	}
	if second, _ := again.Marshal(); !bytes.Equal(text, second) {
		t.Errorf("what is printed is taken back as something else:\n%s\n%s", text, second)
	}
	n.Resolve("/conf")
	have := []string{n.Kubeconfig, n.BootstrapKubeconfig, n.CertDir, n.Identities[0].CertDir, n.Hooks[0].Command[0], n.Hooks[1].Signal.PIDFile}
	want := []string{"/conf/kubelet.conf", "/etc/kubernetes/bootstrap-kubelet.conf", "/conf/pki", "/conf/cni", "/conf/reload", "/conf/run/agent.pid"}
	for i := range want {
		if have[i] != want[i] {
			t.Errorf("resolved %q, want %q", have[i], want[i])
		}
	}
	empty, err := config.LoadNode([]byte(nodeHead))
	if err != nil {
		t.Fatal(err)
	}
	if err := empty.Check(); err != nil || !empty.RotateCertificates || empty.RotateServerCertificates || empty.CertDir != "/var/lib/kubelet/pki" {
		t.Errorf("the defaults: %+v, %v", empty, err)
	}
}

func TestNodeIsRefused(t *testing.T) {
	const identity = "identities: [{name: a, signer: example.com/a, commonName: a%s}]\n"
	with := func(more string) string { return strings.ReplaceAll(identity, "%s", more) }
	for text, want := range map[string]string{
		"nodeNam: x\n":                   `unknown field "nodeNam"`,
		"nodename: x\n":                  `unknown field "nodename"`,
		"nodeName: Node_1\n":             "nodeName",
		"nodeIPs: [10.0.0]\n":            "nodeIPs[0]",
		"nodeIPs: [0.0.0.0]\n":           "not the address of one machine",
		"nodeIPs: [fe80::1]\n":           "not the address of one machine",
		"nodeIPs: [224.0.0.1]\n":         "not the address of one machine",
		"nodeLabels: {a b: c}\n":         "is no label",
		"certDir: ''\n":                  "certDir",
		"rotateCertificates: false\n":    "nothing to do",
		with(", usages: x"):              "usages: is not a list",
		with(", expirationSeconds: 599"): "expirationSeconds: 599",
		with(", dnsNames: [a_b]"):        "dnsNames[0]",
		with(", ipAddresses: [x]"):       "ipAddresses[0]",
		"identities: [{name: A, signer: example.com/a, commonName: a}]\n":              "identities[0].name",
		"identities: [{name: a, signer: a, commonName: a}]\n":                          "identities[0].signer",
		"identities: [{name: a, signer: kubernetes.io/kubelet-srving}]\n":              "is none of",
		"identities: [{name: a, signer: example.com/a}]\n":                             "commonName",
		"identities: [{name: client, signer: example.com/a, commonName: a}]\n":         "is there twice",
		"identities: [{name: kubelet-client, signer: example.com/a, commonName: a}]\n": "kubelet-client is the name of a kubelet's own files",
		"identities: [{name: kubelet-server, signer: example.com/a, commonName: a}]\n": "kubelet-server is the name",
		"identities: [{name: kubelet, signer: example.com/a, commonName: a}]\n":        "kubelet is the name",
		"nodeIPs: ['::ffff:0.0.0.0']\n":                                                "not the address of one machine",
		"hooks: [{}]\n":                                                                "want exactly one",
		"hooks: [{command: []}]\n":                                                     "want exactly one",
		"hooks: [{command: [a], signal: {pidFile: p, signal: HUP}}]\n":                 "want exactly one",
		"hooks: [{signal: {pidFile: p, signal: KILL}}]\n":                              "one of HUP",
		"hooks: [{http: {url: 'ftp://h/'}}]\n":                                         "http.url",
		"hooks: [{http: {url: 'http://u:secret@h/'}}]\n":                               "without a password",
		"hooks: [{http: {url: 'http://h/', method: DELETE}}]\n":                        "http.method",
		"hooks: [{command: [a], identities: [server]}]\n":                              `"server" is not kept`,
		"hooks: [{command: [a], timeout: -1s}]\n":                                      "timeout",
		"kind: ControllerConfiguration\n":                                              "kind",
	} {
		n, err := config.LoadNode([]byte(nodeHead + text))
		if strings.HasPrefix(text, "kind") {
			n, err = config.LoadNode([]byte("apiVersion: kubepki.io/v1alpha1\n" + text))
		}
		if err == nil {
			err = n.Check()
		}
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v: want %q", text, err, want)
		}
	}
}

// What is accepted prints as a configuration that is accepted and prints the same.
func FuzzLoadNode(f *testing.F) {
	f.Add([]byte(fullNode))
	f.Add([]byte(nodeHead))
	f.Fuzz(func(t *testing.T, data []byte) {
		n, err := config.LoadNode(data)
		if err != nil || n.Check() != nil {
			return
		}
		text, err := n.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := config.LoadNode(text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if err := again.Check(); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if second, _ := again.Marshal(); !bytes.Equal(text, second) {
			t.Fatalf("%s\n%s", text, second)
		}
	})
}
