package proof

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// one writes a row as a line.
func one(c Check) string {
	line := fmt.Sprintf("%s %s %s", c.Certificate, c.Reader, c.Method)
	if c.fault != "" {
		line += " " + string(c.fault)
	}
	return line
}

func lines(checks []Check) []string {
	var all []string
	for _, c := range checks {
		all = append(all, one(c))
	}
	return all
}

var wholeNode = []string{
	"apiserver kube-apiserver Handshake",
	"apiserver-kubelet-client kube-apiserver Login",
	"front-proxy-client kube-apiserver Login",
	"etcd-server etcd Handshake",
	"etcd-peer etcd Handshake",
	"etcd-healthcheck-client - Login",
	"apiserver-etcd-client kube-apiserver Login",
	"admin.conf - Login",
	"super-admin.conf - Login",
	"controller-manager.conf kube-controller-manager Login",
	"scheduler.conf kube-scheduler Login",
	"kubelet.conf kubelet Login",
	"kubelet.crt kubelet Handshake",
}

func TestPlan(t *testing.T) {
	manifest := func(name string) string { return "/etc/kubernetes/manifests/" + name + ".yaml" }
	replace := func(w *world, file, old, with string) {
		w.Files[file] = []byte(strings.ReplaceAll(string(w.Files[file]), old, with))
	}
	with := func(change func([]string) []string) []string { return change(slices.Clone(wholeNode)) }
	instead := func(pairs ...string) []string {
		return with(func(rows []string) []string {
			for i := 0; i < len(pairs); i += 2 {
				rows[slices.Index(rows, pairs[i])] = pairs[i+1]
			}
			return slices.DeleteFunc(rows, func(row string) bool { return row == "" })
		})
	}
	for _, test := range []struct {
		name   string
		damage func(t *testing.T, w *world)
		want   []string
	}{
		{"a control-plane node has a row for each certificate and reader", func(*testing.T, *world) {}, wholeNode},
		{
			"absent files that nobody reads are no rows",
			func(t *testing.T, w *world) {
				delete(w.Files, "/etc/kubernetes/super-admin.conf")
				delete(w.Files, "/etc/kubernetes/pki/etcd/healthcheck-client.crt")
			},
			instead("super-admin.conf - Login", "", "etcd-healthcheck-client - Login", ""),
		},
		{
			"an absent file that a program reads is a fault",
			func(t *testing.T, w *world) { delete(w.Files, "/etc/kubernetes/pki/apiserver.crt") },
			instead("apiserver kube-apiserver Handshake", "apiserver kube-apiserver None FileUnreadable"),
		},
		{
			"a serving certificate that is in no catalogue has a row",
			func(t *testing.T, w *world) {
				replace(w, manifest("kube-apiserver"), "pki/apiserver.crt", "pki/own.crt")
				replace(w, manifest("kube-apiserver"), "pki/apiserver.key", "pki/own.key")
				w.Files["/etc/kubernetes/pki/own.crt"] = w.Files["/etc/kubernetes/pki/apiserver.crt"]
				w.Files["/etc/kubernetes/pki/own.key"] = w.Files["/etc/kubernetes/pki/apiserver.key"]
			},
			append(instead("apiserver kube-apiserver Handshake", "apiserver - None NotRead"), "own.crt kube-apiserver Handshake"),
		},
		{
			"an absent key is a fault",
			func(t *testing.T, w *world) { delete(w.Files, "/etc/kubernetes/pki/apiserver.key") },
			instead("apiserver kube-apiserver Handshake", "apiserver kube-apiserver None FileUnreadable"),
		},
		{
			"an absent key is a fault of a certificate that nobody here reads, too",
			func(t *testing.T, w *world) { delete(w.Files, "/etc/kubernetes/pki/etcd/healthcheck-client.key") },
			instead("etcd-healthcheck-client - Login", "etcd-healthcheck-client - None FileUnreadable"),
		},
		{
			"a kubeconfig with the key of another is a fault",
			func(t *testing.T, w *world) {
				key, err := w.Snapshot(w.cluster).KeyAt("/etc/kubernetes/pki/apiserver.key")
				if err != nil {
					t.Fatal(err)
				}
				w.setClientKey(t, "/etc/kubernetes/scheduler.conf", key)
			},
			instead("scheduler.conf kube-scheduler Login", "scheduler.conf kube-scheduler None KeyMismatch"),
		},
		{
			"the key of another certificate is a fault",
			func(t *testing.T, w *world) {
				w.Files["/etc/kubernetes/pki/apiserver.key"] = w.Files["/etc/kubernetes/pki/front-proxy-client.key"]
			},
			instead("apiserver kube-apiserver Handshake", "apiserver kube-apiserver None KeyMismatch"),
		},
		{
			"a kubeconfig that is empty, as the kubelet makes it, is a fault",
			func(t *testing.T, w *world) { w.Files["/etc/kubernetes/scheduler.conf"] = nil },
			instead("scheduler.conf kube-scheduler Login", "scheduler.conf kube-scheduler None FileUnreadable"),
		},
		{
			"a CA that cannot be read is a fault of what is judged by it",
			func(t *testing.T, w *world) { w.Files["/etc/kubernetes/pki/etcd/ca.crt"] = []byte("x") },
			instead(
				"etcd-server etcd Handshake", "etcd-server etcd Handshake FileUnreadable",
				"etcd-peer etcd Handshake", "etcd-peer etcd Handshake FileUnreadable",
				"etcd-healthcheck-client - Login", "etcd-healthcheck-client - Login FileUnreadable",
				"apiserver-etcd-client kube-apiserver Login", "apiserver-etcd-client kube-apiserver Login FileUnreadable",
			),
		},
		{
			"a manifest that cannot be understood is a row, and its program reads nothing that is known",
			func(t *testing.T, w *world) { w.Files[manifest("kube-scheduler")] = []byte("kind: [") },
			with(func(rows []string) []string {
				rows[slices.Index(rows, "scheduler.conf kube-scheduler Login")] = "scheduler.conf - Login"
				return append([]string{"- - None ManifestUnreadable"}, rows...)
			}),
		},
		{
			"a kubeconfig with a token has no certificate to prove",
			func(t *testing.T, w *world) {
				w.Files["/etc/kubernetes/admin.conf"] = []byte(`{"kind":"Config","current-context":"c","contexts":[{"name":"c","context":{"cluster":"k","user":"u"}}],` +
					`"clusters":[{"name":"k","cluster":{"server":"https://127.0.0.1:1"}}],"users":[{"name":"u","user":{"token":"t"}}]}`)
			},
			instead("admin.conf - Login", ""),
		},
		{
			"a server of a kubeconfig that is no URL is a fault",
			func(t *testing.T, w *world) { replace(w, "/etc/kubernetes/admin.conf", "https://", "ftp://") },
			instead("admin.conf - Login", "admin.conf - Login FileUnreadable"),
		},
		{
			"a rotating kubelet's certificate is in the file that its kubeconfig names",
			func(t *testing.T, w *world) {
				file, c, err := (&planner{Node: Node{Snapshot: w.Snapshot(w.cluster)}}).kubeconfig("/etc/kubernetes/kubelet.conf")
				if err != nil || file != "/etc/kubernetes/kubelet.conf" {
					t.Fatal(file, err)
				}
				key, err := c.key.PEM()
				if err != nil {
					t.Fatal(err)
				}
				w.Files["/var/lib/kubelet/pki/kubelet-client-current.pem"] = append(pki.CertificatesPEM(c.chain...), key...)
				w.kubeletConf("client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem, client-key: ../../var/lib/kubelet/pki/kubelet-client-current.pem")
			},
			instead("kubelet.conf kubelet Login", "kubelet-client-current.pem kubelet Login"),
		},
		{
			"a kubelet without its certificate is a fault",
			func(t *testing.T, w *world) {
				w.kubeletConf("client-certificate: /var/lib/kubelet/pki/kubelet-client-current.pem, client-key: /var/lib/kubelet/pki/kubelet-client-current.pem")
			},
			instead("kubelet.conf kubelet Login", "kubelet-client-current.pem kubelet None FileUnreadable"),
		},
		{
			"a kubelet that has not made its serving certificate yet has no row for it",
			func(t *testing.T, w *world) { delete(w.Files, kubeletCert) },
			instead("kubelet.crt kubelet Handshake", ""),
		},
		{
			"a pod that has a file is a reader besides those that log in with it",
			func(t *testing.T, w *world) {
				w.Files[manifest("vip")] = []byte("kind: Pod\nmetadata: {name: vip}\nspec:\n  containers:\n  - name: vip\n    volumeMounts: [{name: a, mountPath: /a.conf}, {name: b, mountPath: /srv/tls.crt}]\n" +
					"  volumes:\n  - {name: a, hostPath: {path: /etc/kubernetes/admin.conf}}\n  - {name: b, hostPath: {path: /etc/kubernetes/pki/apiserver.crt}}\n")
			},
			with(func(rows []string) []string {
				rows[slices.Index(rows, "admin.conf - Login")] = "admin.conf vip Login"
				return slices.Insert(rows, 1, "apiserver vip Start")
			}),
		},
		{
			"certificates of programs that are not here are not read",
			func(t *testing.T, w *world) {
				delete(w.Files, manifest("etcd"))
				delete(w.Files, manifest("kube-apiserver"))
				delete(w.Files, component.DefaultKubeletConfig)
				delete(w.Files, component.DefaultKubeletConf)
			},
			[]string{
				"apiserver - None NotRead", "apiserver-kubelet-client - Login NotRead", "front-proxy-client - Login NotRead",
				"etcd-server - None NotRead", "etcd-peer - None NotRead",
				"etcd-healthcheck-client - Login NotRead", "apiserver-etcd-client - Login NotRead",
				"admin.conf - Login", "super-admin.conf - Login",
				"controller-manager.conf kube-controller-manager Login", "scheduler.conf kube-scheduler Login",
			},
		},
		{
			"a worker has its kubelet",
			func(t *testing.T, w *world) {
				for name := range w.Files {
					if strings.HasPrefix(name, "/etc/kubernetes/") && name != "/etc/kubernetes/kubelet.conf" && name != "/etc/kubernetes/pki/ca.crt" {
						delete(w.Files, name)
					}
				}
			},
			[]string{"kubelet.conf kubelet Login", "kubelet.crt kubelet Handshake"},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := newWorld(t)
			test.damage(t, w)
			checks := w.plan()
			if got := lines(checks); !slices.Equal(got, test.want) {
				t.Fatalf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(test.want, "\n"))
			}
			for _, c := range checks {
				if c.fault != "" && (c.detail == "" || w.run(t, c).Reason != c.fault) {
					t.Errorf("%s: detail %q", one(c), c.detail)
				}
				if c.fault == "" && len(c.targets) == 0 && c.Method != Start {
					t.Errorf("%s looks at nothing", one(c))
				}
			}
		})
	}
}

// setClientKey puts another key into a kubeconfig.
func (w *world) setClientKey(t *testing.T, name string, key *pki.Key) {
	t.Helper()
	file, err := kubeconfig.Parse(w.Files[name])
	if err != nil {
		t.Fatal(err)
	}
	_, user, err := file.Current()
	if err != nil {
		t.Fatal(err)
	}
	data, err := key.PEM()
	if err != nil {
		t.Fatal(err)
	}
	if err := file.SetClientCertificate(user.Name, user.ClientCertificateData, data); err != nil {
		t.Fatal(err)
	}
	w.Files[name] = file.Bytes()
}

func (w *world) kubeletConf(user string) {
	w.Files["/etc/kubernetes/kubelet.conf"] = fmt.Appendf(nil, "current-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n"+
		"clusters: [{name: k, cluster: {server: 'https://127.0.0.1:%d'}}]\nusers: [{name: u, user: {%s}}]\n", w.api.port(), user)
}

func TestEveryRowOfASoundNodeIsProved(t *testing.T) {
	w := newWorld(t)
	results, err := w.verifier().Run(context.Background(), w.plan())
	if err != nil {
		t.Fatal(err)
	}
	if len(results) != len(wholeNode) {
		t.Errorf("%d results", len(results))
	}
	for _, r := range results {
		if !r.Proved || r.Detail != "" || r.NewSerial == "" || r.OldSerial != "" || r.Address == "" || len(r.Chain) == 0 {
			t.Errorf("%+v", r)
		}
	}
	if stale := Stale(results); len(stale) != 0 {
		t.Error(stale)
	}
}

// The words of the JSON are for programs.
func TestJSONOfAResult(t *testing.T) {
	w := newWorld(t)
	w.renew(t, layout.NameAPIServer)
	r := w.run(t, w.row(t, "apiserver"))
	data, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{
		"certificate": "apiserver", "file": "/etc/kubernetes/pki/apiserver.crt", "reader": "kube-apiserver", "method": "Handshake",
		"reason": "ServesOld", "proved": false, "oldSerial": serial(w.old["apiserver"]), "address": fmt.Sprintf("127.0.0.1:%d", w.api.port()),
		"at": now.Format(time.RFC3339), "due": now.Format(time.RFC3339), "took": 0.0,
	} {
		if fields[name] != want {
			t.Errorf("%s: %v, want %v", name, fields[name], want)
		}
	}
	for _, name := range []string{"newSerial", "how", "detail", "chain"} {
		if fields[name] == nil {
			t.Errorf("no %s in %s", name, data)
		}
	}
	if len(fields) != 15 {
		t.Errorf("%d fields: %s", len(fields), data)
	}
}

// No way of printing a check, a result or a fault shows key material.
func TestNothingPrintsKeys(t *testing.T) {
	w := newWorld(t)
	checks := w.plan()
	w.api.listener.Close()
	results, err := w.verifier().Run(context.Background(), checks)
	if err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("%v %+v %#v %v %+v", checks, checks, checks, results, results)
	data, err := json.Marshal(struct {
		Checks  []Check
		Results []Result
	}{checks, results})
	if err != nil {
		t.Fatal(err)
	}
	text += string(data)
	keys := 0
	for name, pem := range w.Files {
		if !strings.HasSuffix(name, ".key") {
			continue
		}
		for line := range strings.Lines(string(pem)) {
			if line = strings.TrimSpace(line); len(line) == 64 {
				keys++
				if strings.Contains(text, line) {
					t.Errorf("a line of %s is printed", name)
				}
			}
		}
	}
	if keys < 10 {
		t.Errorf("%d lines of keys were looked for", keys)
	}
}
