package config_test

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/csr"
)

const head = "apiVersion: kubepki.io/v1alpha1\nkind: ControllerConfiguration\n"

// The configuration as users write it; every field that the format has.
const full = head + `approver:
  enabled: true
  shadow: false
  signers: [kubernetes.io/kubelet-serving, kubernetes.io/kube-apiserver-client-kubelet]
  deny: true
  maxExpiration: 8784h
  keys: {minRSABits: 2048, maxRSABits: 8192, curves: [P-256, P-384, P-521], ed25519: true}
  cluster:
    name: kubernetes
    domain: cluster.local
    podCIDRs: [10.244.0.0/16]
    serviceCIDRs: [10.96.0.0/12]
    apiServerNames: [api.corp.example.com]
    apiServerAddresses: [10.0.0.100]
  evidence:
    machines: true
    egressIPs: true
    inventory:
    - {node: bm-1, names: [bm-1, bm-1.corp.example.com], addresses: [10.0.0.41]}
    servedCertificate: {enabled: true, caFile: /etc/kubernetes/pki/ca.crt, timeout: 3s}
    dns: {enabled: false, required: false, timeout: 2s}
    nodeStatus: veto
  bootstrap:
    requesters:
    - {user: "system:serviceaccount:openshift-machine-config-operator:node-bootstrapper", groups: ["system:serviceaccounts:openshift-machine-config-operator", "system:serviceaccounts", "system:authenticated"]}
    - {group: "system:bootstrappers:kubeadm:default-node-token"}
    window: 2h
    tokenBindings: [{token: abc123, machine: m-worker-c}]
  budgets: {perRequester: {burst: 5, per: 10m}}
  rules: [{name: a, match: "true", denyIf: "false", message: m}]
signer: {enabled: false, signers: [{name: kubernetes.io/kubelet-serving, certFile: ca.crt, keyFile: /k/ca.key, maxDuration: 8760h}]}
cleaner: {enabled: false}
`

func TestLoad(t *testing.T) {
	c, err := config.Load([]byte(full))
	if err != nil {
		t.Fatal(err)
	}
	c.Resolve("/conf")
	if c.Signer.Signers[0].CertFile != "/conf/ca.crt" || c.Signer.Signers[0].KeyFile != "/k/ca.key" {
		t.Errorf("%+v", c.Signer)
	}
	if c.Approver.Evidence.ServedCertificate.AddressFrom != csr.AddressFromStrong || c.Cleaner.Pending.Duration != 24*time.Hour {
		t.Errorf("defaults are missing: %+v", c)
	}
}

func TestAnEmptyConfigurationIsTheDefault(t *testing.T) {
	c, err := config.Load([]byte(head))
	if err != nil {
		t.Fatal(err)
	}
	if want := config.Default(); !reflect.DeepEqual(*c, want) {
		t.Errorf("have %+v\nwant %+v", *c, want)
	}
}

func TestWhatIsPrintedIsTakenBack(t *testing.T) {
	for _, text := range []string{head, full} {
		c, err := config.Load([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		printed, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(printed), "null") {
			t.Errorf("null in\n%s", printed)
		}
		again, err := config.Load(printed)
		if err != nil {
			t.Fatalf("%v\n%s", err, printed)
		}
		if !reflect.DeepEqual(c, again) {
			t.Errorf("have %+v\nwant %+v", again, c)
		}
		reprinted, err := again.Marshal()
		if err != nil || string(printed) != string(reprinted) {
			t.Errorf("have\n%s\nwant\n%s\n%v", reprinted, printed, err)
		}
	}
}

func TestErrorsNameTheField(t *testing.T) {
	for text, want := range map[string]string{
		"":                              "apiVersion",
		"kind: ControllerConfiguration": "apiVersion",
		head + "aprover: {}":            `unknown field "aprover"`,
		head + "approver: {evidence: {inventry: []}}":                        `unknown field "approver.evidence.inventry"`,
		head + "approver: {deny: true, deny: false}":                         "deny",
		head + "approver: {signers: []}":                                     "approver.signers: none",
		head + "approver: {signers: [kubelet-serving]}":                      "approver.signers[0]",
		head + "approver: {signers: [kubernetes.io/kubelet-servings]}":       "approver.signers[0]: kubernetes.io/kubelet-servings is none of kubernetes.io/kube-apiserver-client, ",
		head + "approver: {evidence: {inventoryConfigMap: a/}}":              "approver.evidence.inventoryConfigMap",
		head + "approver: {evidence: {inventoryConfigMap: /a}}":              "approver.evidence.inventoryConfigMap",
		head + "approver: {evidence: {inventoryConfigMap: a/b/c}}":           "approver.evidence.inventoryConfigMap",
		head + "approver: {maxExpiration: 1m}":                               "approver.maxExpiration",
		head + "approver: {maxExpiration: soon}":                             `approver.maxExpiration: time: invalid duration "soon"`,
		head + "approver: {maxExpiration: 8784}":                             "approver.maxExpiration: is a number where a value of type string belongs",
		head + "approver: {deny: maybe}":                                     "approver.deny: is a string where a value of type bool belongs",
		head + "approver: {budgets: {perRequester: {burst: 1.5}}}":           "approver.budgets.perRequester.burst: is a number 1.5 where a value of type int belongs",
		head + "approver: {cluster: {podCIDRs: [null]}}":                     "approver.cluster.podCIDRs[0]: is null",
		head + "approver: {Deny: null}":                                      `unknown field "approver.Deny"`,
		head + "approver: []":                                                "approver: holds no fields",
		head + "approver: {signers: kubernetes.io/kubelet-serving}":          "approver.signers: is not a list",
		head + "approver: {bootstrap: {requesters: [{group: a, users: b}]}}": `unknown field "approver.bootstrap.requesters[0].users"`,
		head + "Approver: {deny: false}":                                     `unknown field "Approver"`,
		head + "approver: {deny: true, Deny: false}":                         `unknown field "approver.Deny"`,
		"apiVersion: kubepki.io/v2\nkind: ControllerConfiguration\nnew: 1":   "is not kubepki.io/v1alpha1",
		"[]":                         "apiVersion",
		"a: [":                       "yaml",
		"a: &a [*a]":                 "contains itself",
		"\xff\xfea\x00":              "not in UTF-8",
		strings.Repeat("#", 1<<20+1): "more than 1048576 bytes",
		head + "approver: {keys: {minRSABits: 1024}}":                                                                  "approver.keys.minRSABits",
		head + "approver: {keys: {curves: [P-224]}}":                                                                   "approver.keys.curves[0]",
		head + "approver: {cluster: {podCIDRs: [10.0.0.0]}}":                                                           "approver.cluster.podCIDRs[0]",
		head + "approver: {cluster: {apiServerAddresses: [api]}}":                                                      "approver.cluster.apiServerAddresses[0]",
		head + "approver: {evidence: {nodeStatus: maybe}}":                                                             "approver.evidence.nodeStatus",
		head + "approver: {evidence: {dns: {required: true}}}":                                                         "approver.evidence.dns.required",
		head + "approver: {evidence: {inventory: [{node: BM}]}}":                                                       "approver.evidence.inventory[0].node",
		head + "approver: {evidence: {inventory: [{node: a}, {node: a}]}}":                                             "approver.evidence.inventory[1].node",
		head + "approver: {evidence: {inventory: [{node: a, addresses: [1.2.3.4]}, {node: b, addresses: [1.2.3.4]}]}}": "listed for a already",
		head + "approver: {bootstrap: {requesters: [{}]}}":                                                             "approver.bootstrap.requesters[0]",
		head + "approver: {bootstrap: {tokenBindings: [{token: abc123.secretsecret, machine: a}]}}":                    "without the secret",
		head + "approver: {rules: [{name: a, denyIf: 'request.no == 1'}]}":                                             "approver.rules[0] (a): denyIf",
		head + "signer: {enabled: true}":                                                                               "signer.signers",
		head + "signer: {signers: [{name: kubelet-serving, certFile: c, keyFile: k}]}":                                 `signer.signers[0].name: "kubelet-serving" is not domain/name`,
		head + "signer: {signers: [{name: a.b/c/d, certFile: c, keyFile: k}]}":                                         "signer.signers[0].name",
		head + "signer: {signers: [{name: kubernetes.io/kubelet-servin, certFile: c, keyFile: k}]}":                    "signer.signers[0].name: kubernetes.io/kubelet-servin is none of",
		head + "signer: {signers: [{name: a.b/c, certFile: c, keyFile: k}, {name: a.b/c, certFile: c, keyFile: k}]}":   "signer.signers[1].name: a.b/c is there twice",
		head + "signer: {signers: [{name: a.b/c, certFile: c, keyFile: k, maxDuration: 1m}]}":                          "signer.signers[0].maxDuration",
		head + "signer: {signers: [{name: a.b/c, certFile: c, keyFile: k, trust: {configMap: a/}}]}":                   "signer.signers[0].trust.configMap",
		head + "cleaner: {flood: {threshold: 0}}":                                                                      "cleaner.flood.threshold",
		head + "signer: {signers: [{name: a.b/c}]}":                                                                    "certFile",
		head + "cleaner: {pending: 1s}":                                                                                "cleaner.pending",
	} {
		_, err := config.Load([]byte(text))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: have %v, want %q", text, err, want)
		}
	}
}

func TestExactlyOneDocument(t *testing.T) {
	flow := "{apiVersion: kubepki.io/v1alpha1, kind: ControllerConfiguration}"
	for text, want := range map[string]bool{
		head:                                   true,
		"---\n" + head:                         true,
		"# comment\n--- # comment\n" + head:    true,
		"%YAML 1.1\n---\n" + head:              true,
		"\ufeff---\n" + head:                   true,
		head + "...\n# the end\n":              true,
		"--- " + flow:                          true,
		strings.ReplaceAll(head, "\n", "\r\n"): true,
		head + "---\n" + head:                  false,
		head + "---\n":                         false,
		head + "...\nsigner: {}\n":             false,
		"--- " + flow + "\n--- " + flow:        false,
		strings.ReplaceAll(head+"---\n"+head, "\n", "\r"):     false,
		strings.ReplaceAll(head+"---\n"+head, "\n", "\u0085"): false,
		strings.ReplaceAll(head+"---\n"+head, "\n", "\u2028"): false,
	} {
		_, err := config.Load([]byte(text))
		if want && err != nil || !want && (err == nil || !strings.Contains(err.Error(), "more than one document")) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestNullIsTheDefaultAndAnEmptyListIsNot(t *testing.T) {
	c, err := config.Load([]byte(head + "approver: {deny: null, signers: null, keys: {curves: []}, bootstrap: {requesters: [], window: null}}\ncleaner: null"))
	if err != nil {
		t.Fatal(err)
	}
	want := config.Default()
	want.Approver.Keys.Curves, want.Approver.Bootstrap.Requesters = []string{}, []csr.Bootstrapper{}
	if !reflect.DeepEqual(*c, want) {
		t.Errorf("have %+v\nwant %+v", *c, want)
	}
}

func TestAListReplacesTheDefault(t *testing.T) {
	c, err := config.Load([]byte(head + "approver: {bootstrap: {requesters: [{group: g}]}}"))
	if err != nil {
		t.Fatal(err)
	}
	if r := c.Approver.Bootstrap.Requesters; len(r) != 1 || r[0].User != "" || r[0].Group != "g" || len(r[0].Groups) > 0 {
		t.Errorf("%+v", r)
	}
}

// Another YAML library says whether Load overlooked a document.
func FuzzLoad(f *testing.F) {
	f.Add([]byte(head))
	f.Add([]byte(full))
	f.Add([]byte(head + "...\n---\n" + head))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := config.Load(data)
		if err != nil {
			return
		}
		var first, second yaml.Node
		if d := yaml.NewDecoder(bytes.NewReader(data)); d.Decode(&first) == nil && d.Decode(&second) == nil {
			t.Fatalf("a second document in %q", data)
		}
		printed, err := c.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		again, err := config.Load(printed)
		if err != nil {
			t.Fatalf("%v\n%s", err, printed)
		}
		if reprinted, err := again.Marshal(); err != nil || !bytes.Equal(printed, reprinted) {
			t.Fatalf("have\n%s\nwant\n%s\n%v", reprinted, printed, err)
		}
	})
}
