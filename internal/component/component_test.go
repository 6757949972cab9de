package component_test

import (
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/component"
)

// machine is the files of a node by path.
type machine map[string]string

func (m machine) ReadFile(name string) ([]byte, error) {
	data, ok := m[name]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	return []byte(data), nil
}

func (m machine) ReadDir(name string) ([]string, error) {
	var names []string
	for file := range m {
		if path.Dir(file) == name {
			names = append(names, path.Base(file))
		}
	}
	if names == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	slices.Sort(names)
	return names, nil
}

// manifest writes a static pod with the folders of kubeadm mounted.
func manifest(name, image string, extra string, flags ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: kube-system}\nspec:\n  hostNetwork: true\n  containers:\n  - name: %s\n    image: %s\n    command:\n    - %s\n", name, name, image, name)
	for _, f := range flags {
		fmt.Fprintf(&b, "    - --%s\n", f)
	}
	b.WriteString(extra)
	b.WriteString(`    volumeMounts:
    - {name: pki, mountPath: /etc/kubernetes/pki, readOnly: true}
    - {name: conf, mountPath: /etc/kubernetes/scheduler.conf, readOnly: true}
  volumes:
  - {name: pki, hostPath: {path: /etc/kubernetes/pki, type: DirectoryOrCreate}}
  - {name: conf, hostPath: {path: /etc/kubernetes/scheduler.conf, type: FileOrCreate}}
`)
	return b.String()
}

func controlPlane() machine {
	return machine{
		"/etc/kubernetes/manifests/etcd.yaml": manifest("etcd", "r/etcd:3.6.8-0", "",
			"cert-file=/etc/kubernetes/pki/etcd/server.crt", "key-file=/etc/kubernetes/pki/etcd/server.key",
			"peer-cert-file=/etc/kubernetes/pki/etcd/peer.crt", "peer-key-file=/etc/kubernetes/pki/etcd/peer.key",
			"listen-client-urls=https://127.0.0.1:2379,https://192.0.2.10:2379", "listen-peer-urls=https://192.0.2.10:2380",
			"listen-metrics-urls=http://127.0.0.1:2381"),
		"/etc/kubernetes/manifests/kube-apiserver.yaml": manifest("kube-apiserver", "r/kube-apiserver:v1.36.3",
			"    livenessProbe: {httpGet: {host: 192.0.2.10, path: /livez, port: probe-port, scheme: HTTPS}}\n"+
				"    ports: [{name: probe-port, containerPort: 6443}]\n",
			"advertise-address=192.0.2.10", "secure-port=6443",
			"tls-cert-file=/etc/kubernetes/pki/apiserver.crt", "tls-private-key-file=/etc/kubernetes/pki/apiserver.key",
			"etcd-certfile=/etc/kubernetes/pki/apiserver-etcd-client.crt", "etcd-keyfile=/etc/kubernetes/pki/apiserver-etcd-client.key",
			"etcd-servers=https://127.0.0.1:2379",
			"kubelet-client-certificate=/etc/kubernetes/pki/apiserver-kubelet-client.crt",
			"kubelet-client-key=/etc/kubernetes/pki/apiserver-kubelet-client.key"),
		"/etc/kubernetes/manifests/kube-scheduler.yaml": manifest("kube-scheduler", "r/kube-scheduler:v1.36.3", "",
			"kubeconfig=/etc/kubernetes/scheduler.conf", "bind-address=127.0.0.1"),
		"/var/lib/kubelet/config.yaml": "kind: KubeletConfiguration\nrotateCertificates: true\nstaticPodPath: /etc/kubernetes/manifests\n" +
			"authentication: {x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}\n",
		"/var/lib/kubelet/kubeadm-flags.env": "KUBELET_KUBEADM_ARGS=\"--container-runtime-endpoint=unix:///run/containerd/containerd.sock --hostname-override cp1\"\n",
		"/etc/kubernetes/kubelet.conf":       "kind: Config\n",
	}
}

// line shows a reader the way a person would ask for it.
func line(r component.Reader) string {
	text := fmt.Sprintf("%s %s %s %s", r.Component, r.Flag, r.File, r.Reload.How)
	for _, a := range r.ServedAt {
		text += " at " + a.String()
	}
	for _, a := range r.Uses {
		text += " to " + a.String()
	}
	return text
}

func readers(m machine) []string {
	var lines []string
	for _, r := range component.Discover(m, component.Paths{}).Readers() {
		lines = append(lines, line(r))
	}
	return lines
}

func TestReadersOfAControlPlane(t *testing.T) {
	want := []string{
		"etcd cert-file /etc/kubernetes/pki/etcd/server.crt Handshake at https://127.0.0.1:2379 at https://192.0.2.10:2379",
		"etcd peer-cert-file /etc/kubernetes/pki/etcd/peer.crt Handshake at https://192.0.2.10:2380",
		"kube-apiserver tls-cert-file /etc/kubernetes/pki/apiserver.crt Watch at https://192.0.2.10:6443",
		"kube-apiserver kubelet-client-certificate /etc/kubernetes/pki/apiserver-kubelet-client.crt Watch to https://127.0.0.1:10250",
		"kube-apiserver etcd-certfile /etc/kubernetes/pki/apiserver-etcd-client.crt Handshake to https://127.0.0.1:2379",
		"kube-scheduler kubeconfig /etc/kubernetes/scheduler.conf Restart",
		"kubelet kubeconfig /etc/kubernetes/kubelet.conf Rotate",
		"kubelet tlsCertFile /var/lib/kubelet/pki/kubelet.crt Restart at https://127.0.0.1:10250",
		"kubelet clientCAFile /etc/kubernetes/pki/ca.crt Watch",
	}
	if got := readers(controlPlane()); !slices.Equal(got, want) {
		t.Errorf("readers:\n%s\nwant:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestReadersFollowWhatTheNodeSays(t *testing.T) {
	cases := map[string]struct {
		change func(machine)
		want   string // a line that must be there
		absent string // a text that no line may contain
	}{
		"an old API server reads its kubelet client certificate once": {
			change: replace("/etc/kubernetes/manifests/kube-apiserver.yaml", "v1.36.3", "v1.18.20"),
			want:   "kube-apiserver kubelet-client-certificate /etc/kubernetes/pki/apiserver-kubelet-client.crt Restart to https://127.0.0.1:10250",
		},
		"an image without a version is restarted to be sure": {
			change: replace("/etc/kubernetes/manifests/kube-apiserver.yaml", ":v1.36.3", "@sha256:0123"),
			want:   "kube-apiserver tls-cert-file /etc/kubernetes/pki/apiserver.crt Restart at https://192.0.2.10:6443",
		},
		"a registry with a port is no version": {
			change: replace("/etc/kubernetes/manifests/kube-apiserver.yaml", "r/kube-apiserver:v1.36.3", "registry:5000/kube-apiserver"),
			want:   "kube-apiserver tls-cert-file /etc/kubernetes/pki/apiserver.crt Restart at https://192.0.2.10:6443",
		},
		"a mount under another path is followed to the machine's file": {
			change: replace("/etc/kubernetes/manifests/kube-apiserver.yaml", "hostPath: {path: /etc/kubernetes/pki,", "hostPath: {path: /srv/pki,"),
			want:   "kube-apiserver tls-cert-file /srv/pki/apiserver.crt Watch at https://192.0.2.10:6443",
		},
		"a file inside the image is nobody's to renew": {
			change: replace("/etc/kubernetes/manifests/kube-apiserver.yaml", "tls-cert-file=/etc/kubernetes/pki/", "tls-cert-file=/baked/in/"),
			absent: "tls-cert-file",
		},
		"etcd can be configured by its environment": {
			change: replace("/etc/kubernetes/manifests/etcd.yaml", "    - --cert-file=/etc/kubernetes/pki/etcd/server.crt\n",
				"    env: [{name: ETCD_CERT_FILE, value: /etc/kubernetes/pki/etcd/env.crt}]\n    args:\n"),
			want: "etcd cert-file /etc/kubernetes/pki/etcd/env.crt Handshake at https://127.0.0.1:2379 at https://192.0.2.10:2379",
		},
		"an API server on another port": {
			change: replace("/etc/kubernetes/manifests/kube-apiserver.yaml", "secure-port=6443", "secure-port=8443"),
			want:   "kube-apiserver tls-cert-file /etc/kubernetes/pki/apiserver.crt Watch at https://192.0.2.10:8443",
		},
		"a bind address wins over the advertised one": {
			change: replace("/etc/kubernetes/manifests/kube-apiserver.yaml", "advertise-address=192.0.2.10", "bind-address=127.0.0.9"),
			want:   "kube-apiserver tls-cert-file /etc/kubernetes/pki/apiserver.crt Watch at https://127.0.0.9:6443",
		},
		"a kubelet without rotation reads its kubeconfig once": {
			change: replace("/var/lib/kubelet/config.yaml", "rotateCertificates: true", "rotateCertificates: false"),
			want:   "kubelet kubeconfig /etc/kubernetes/kubelet.conf Restart",
		},
		"a kubelet that asks the cluster for its serving certificate": {
			change: replace("/var/lib/kubelet/config.yaml", "rotateCertificates: true", "serverTLSBootstrap: true"),
			want:   "kubelet tlsCertFile /var/lib/kubelet/pki/kubelet-server-current.pem Rotate at https://127.0.0.1:10250",
		},
		"a kubelet with its own folder for certificates": {
			change: replace("/var/lib/kubelet/kubeadm-flags.env", "--hostname-override cp1", "--cert-dir=/data/kubelet"),
			want:   "kubelet tlsCertFile /data/kubelet/kubelet.crt Restart at https://127.0.0.1:10250",
		},
		"a kubelet that serves nothing": {
			change: replace("/var/lib/kubelet/config.yaml", "rotateCertificates: true", "port: -1"),
			want:   "kubelet tlsCertFile /var/lib/kubelet/pki/kubelet.crt Restart",
		},
		"another static pod with admin.conf": {
			change: func(m machine) {
				m["/etc/kubernetes/manifests/vip.yaml"] = "kind: Pod\nmetadata: {name: vip}\nspec:\n  containers:\n  - name: vip\n    image: vip:v1\n    args: [manager]\n" +
					"    volumeMounts: [{name: c, mountPath: /etc/kubernetes/admin.conf}]\n  volumes: [{name: c, hostPath: {path: /etc/kubernetes/admin.conf}}]\n"
			},
			want: "vip  /etc/kubernetes/admin.conf Restart",
		},
		"another static pod that names one certificate of a folder": {
			change: func(m machine) {
				m["/etc/kubernetes/manifests/backup.yaml"] = "kind: Pod\nmetadata: {name: backup}\nspec:\n  containers:\n  - name: backup\n    image: backup:v1\n    args: [--cert=/certs/healthcheck-client.crt]\n" +
					"    volumeMounts: [{name: c, mountPath: /certs}]\n  volumes: [{name: c, hostPath: {path: /etc/kubernetes/pki/etcd}}]\n"
			},
			want: "backup cert /etc/kubernetes/pki/etcd/healthcheck-client.crt Restart",
		},
		"a file whose name begins with a dot is none of the kubelet's": {
			change: func(m machine) {
				m["/etc/kubernetes/manifests/.kube-apiserver.yaml.swp"] = "garbage"
				delete(m, "/etc/kubernetes/manifests/kube-apiserver.yaml")
			},
			absent: "kube-apiserver",
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := maps.Clone(controlPlane())
			c.change(m)
			set := component.Discover(m, component.Paths{})
			if len(set.Problems) > 0 {
				t.Fatalf("problems: %v", set.Problems)
			}
			got := readers(m)
			if c.want != "" && !slices.Contains(got, c.want) {
				t.Errorf("no line %q in:\n%s", c.want, strings.Join(got, "\n"))
			}
			if c.absent != "" && strings.Contains(strings.Join(got, "\n"), c.absent) {
				t.Errorf("%q in:\n%s", c.absent, strings.Join(got, "\n"))
			}
		})
	}
}

func replace(file, old, changed string) func(machine) {
	return func(m machine) {
		if !strings.Contains(m[file], old) {
			panic("nothing to replace in " + file)
		}
		m[file] = strings.Replace(m[file], old, changed, 1)
	}
}

func TestWhatCannotBeUnderstoodIsAProblem(t *testing.T) {
	cases := map[string]struct {
		file, content, want string
	}{
		"not YAML":                  {"/etc/kubernetes/manifests/etcd.yaml", "\tx: [", "etcd.yaml"},
		"cut off":                   {"/etc/kubernetes/manifests/etcd.yaml", "kind: Pod\n", "no containers"},
		"another kind":              {"/etc/kubernetes/manifests/etcd.yaml", "kind: Deployment\n", `kind "Deployment", want Pod`},
		"a mount without a volume":  {"/etc/kubernetes/manifests/etcd.yaml", strings.ReplaceAll(manifest("etcd", "etcd:3.6.8-0", ""), "- {name: pki, hostPath", "- {name: other, hostPath"), `volume "pki" is not there`},
		"a probe of no known port":  {"/etc/kubernetes/manifests/etcd.yaml", manifest("etcd", "etcd:3.6.8-0", "    livenessProbe: {httpGet: {port: nope}}\n"), "port nope is not known"},
		"the kubelet's file broken": {"/var/lib/kubelet/config.yaml", "[", "config.yaml"},
		"a strange interval":        {"/var/lib/kubelet/config.yaml", "fileCheckFrequency: soon\n", "fileCheckFrequency"},
		"a strange port":            {"/var/lib/kubelet/kubeadm-flags.env", "KUBELET_KUBEADM_ARGS=--port=x\n", "--port"},
		"a strange switch":          {"/etc/default/kubelet", "KUBELET_EXTRA_ARGS=--rotate-certificates=perhaps\n", "--rotate-certificates"},
		"a strange gate":            {"/etc/sysconfig/kubelet", "KUBELET_EXTRA_ARGS=--feature-gates=RotateKubeletServerCertificate=x\n", "--feature-gates"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			m := controlPlane()
			m[c.file] = c.content
			problems := component.Discover(m, component.Paths{}).Problems
			if len(problems) != 1 || problems[0].Path != c.file || !strings.Contains(problems[0].Error(), c.want) {
				t.Errorf("problems %v, want one about %s with %q", problems, c.file, c.want)
			}
		})
	}
}

func TestProbesAndAgent(t *testing.T) {
	set := component.Discover(controlPlane(), component.Paths{})
	api, _ := set.Find(component.APIServer)
	probe, ok := api.Probe(component.Startup, component.Liveness)
	if !ok || probe.URL() != "https://192.0.2.10:6443/livez" {
		t.Errorf("probe %v %q", ok, probe.URL())
	}
	a := set.Agent
	if a.NodeName != "cp1" || a.RuntimeEndpoint != "unix:///run/containerd/containerd.sock" || a.FileCheckFrequency != 20*time.Second ||
		a.ClientCertificate() != "/var/lib/kubelet/pki/kubelet-client-current.pem" || !a.RotateCertificates {
		t.Errorf("agent: %+v", a)
	}
	if !set.ControlPlane() {
		t.Error("a node with an API server is not called a control plane")
	}
	worker := component.Discover(machine{"/etc/kubernetes/kubelet.conf": ""}, component.Paths{})
	if worker.ControlPlane() || len(worker.Components) != 1 {
		t.Errorf("worker: %+v", worker)
	}
	if nothing := component.Discover(machine{}, component.Paths{}); len(nothing.Components) > 0 || len(nothing.Problems) > 0 {
		t.Errorf("an empty machine: %+v", nothing)
	}
}

func TestFlagsAboutCertificatesOverrideTheConfiguration(t *testing.T) {
	m := controlPlane()
	m["/var/lib/kubelet/config.yaml"] = "rotateCertificates: true\nserverTLSBootstrap: true\nfeatureGates: {RotateKubeletServerCertificate: true}\n"
	m["/var/lib/kubelet/kubeadm-flags.env"] = `KUBELET_KUBEADM_ARGS="--rotate-certificates --feature-gates=Other=true,RotateKubeletServerCertificate=false"` + "\n"
	m["/etc/default/kubelet"] = "# extra\nKUBELET_EXTRA_ARGS=--rotate-server-certificates=false --tls-cert-file=/etc/k.crt --tls-private-key-file=/etc/k.key --bootstrap-kubeconfig=/etc/boot\n"
	set := component.Discover(m, component.Paths{})
	a := set.Agent
	if !a.RotateCertificates || a.ServerTLSBootstrap || a.RotateServing == nil || *a.RotateServing || a.TLSCertFile != "/etc/k.crt" ||
		a.TLSKeyFile != "/etc/k.key" || a.BootstrapKubeconfig != "/etc/boot" || a.ServingCertificate() != "/etc/k.crt" || len(set.Problems) > 0 {
		t.Errorf("%+v, %v", a, set.Problems)
	}
	var got []string
	for _, o := range a.Overrides {
		got = append(got, fmt.Sprintf("%s %s=%s %v %s", o.Field, o.Configured, o.Value, o.Differs(), path.Base(o.File)))
	}
	want := []string{
		"rotateCertificates true=true false kubeadm-flags.env", "featureGates.RotateKubeletServerCertificate true=false true kubeadm-flags.env",
		"tlsCertFile =/etc/k.crt true kubelet", "tlsPrivateKeyFile =/etc/k.key true kubelet", "serverTLSBootstrap true=false true kubelet",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

// The configuration is the file that the last --config names.
func TestAFlagNamesTheConfiguration(t *testing.T) {
	m := controlPlane()
	m["/var/lib/kubelet/kubeadm-flags.env"] = "KUBELET_KUBEADM_ARGS=\"--config=/etc/a.yaml\"\n"
	m["/etc/a.yaml"], m["/etc/b.yaml"] = "rotateCertificates: false\n", "rotateCertificates: true\nserverTLSBootstrap: true\n"
	if a := component.Discover(m, component.Paths{}).Agent; a.Config != "/etc/a.yaml" || a.RotateCertificates {
		t.Errorf("%+v", a)
	}
	m["/etc/default/kubelet"] = "KUBELET_EXTRA_ARGS=--config /etc/b.yaml\n"
	if a := component.Discover(m, component.Paths{}).Agent; a.Config != "/etc/b.yaml" || !a.RotateCertificates || !a.ServerTLSBootstrap {
		t.Errorf("%+v", a)
	}
}

// A kubelet that asks the cluster serves other files only until it has an answer.
func TestTheClustersCertificateGoesBeforeOneFromFiles(t *testing.T) {
	m := controlPlane()
	m["/var/lib/kubelet/config.yaml"] = "serverTLSBootstrap: true\ntlsCertFile: /etc/k.crt\ntlsPrivateKeyFile: /etc/k.key\n"
	a := component.Discover(m, component.Paths{}).Agent
	if got := a.ServingCertificate(); got != "/var/lib/kubelet/pki/kubelet-server-current.pem" {
		t.Errorf("serves %s", got)
	}
}

func TestVersions(t *testing.T) {
	for text, want := range map[string]string{"v1.36.3": "v1.36.3", "3.6.8-0": "v3.6.8", "v1.30.0+k3s1": "v1.30.0"} {
		if v, err := component.ParseVersion(text); err != nil || v.String() != want {
			t.Errorf("%q: %v, %v", text, v, err)
		}
	}
	for _, text := range []string{"", "latest", "v1", "1.2", "1.2.x", "1.2.3.4"} {
		if v, err := component.ParseVersion(text); err == nil {
			t.Errorf("%q is taken for %v", text, v)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	for _, data := range controlPlane() {
		f.Add([]byte(data))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		found, err := component.ParseManifest("x.yaml", data)
		if err == nil && len(found) == 0 {
			t.Error("a manifest without containers and without an error")
		}
		component.Set{Components: found}.Readers()
	})
}
