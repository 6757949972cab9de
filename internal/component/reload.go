package component

import "time"

// How says in one word how a changed file gets into a running program. It is part of the
// JSON output and may only grow.
type How string

// The ways of reading files.
const (
	Watch     How = "Watch"     // it looks at the file itself and takes a new one
	Handshake How = "Handshake" // it reads the file for every new TLS connection
	Restart   How = "Restart"   // it reads the file once, when it starts
	Rotate    How = "Rotate"    // it renews the file itself
)

// Reload is how, and how soon at the latest, a program takes a changed file.
type Reload struct {
	How How `json:"how"`
	// Within is the longest time that a Watch takes.
	Within time.Duration `json:"within,omitempty"`
	// Since is the first version with this behaviour; earlier ones take a restart.
	Since string `json:"since,omitempty"`
}

// use is one flag that names a file, in one component.
type use struct {
	component Name
	flag      string
	key       string // the flag that names the private key, if that is another file
	role      Role
	how       How
	within    time.Duration
	major     int // first version that does not need a restart; 0: every version
	minor     int
}

// table says who reads what and how, from the documentation and the behaviour of the
// components. Where a version is given it is the first for which the behaviour is certain;
// a program of an earlier or unknown version is restarted, which is always right.
//
// kube-apiserver watches the files of its serving certificate and looks at them once a
// minute besides. Its client certificates for kubelets and aggregated API servers are
// looked at whenever a connection is made and every five minutes, when connections that
// still use the old one are closed. Its client for etcd, and etcd itself, read certificate
// and key for each handshake; connections that are open stay as they are.
var table = []use{
	{component: Etcd, flag: "cert-file", key: "key-file", role: Serving, how: Handshake, major: 3, minor: 3},
	{component: Etcd, flag: "peer-cert-file", key: "peer-key-file", role: Serving, how: Handshake, major: 3, minor: 3},
	{component: Etcd, flag: "client-cert-file", key: "client-key-file", role: Client, how: Handshake, major: 3, minor: 3},
	{component: Etcd, flag: "trusted-ca-file", role: Trust, how: Restart},
	{component: Etcd, flag: "peer-trusted-ca-file", role: Trust, how: Restart},

	{component: APIServer, flag: "tls-cert-file", key: "tls-private-key-file", role: Serving, how: Watch, within: time.Minute, major: 1, minor: 17},
	{component: APIServer, flag: "kubelet-client-certificate", key: "kubelet-client-key", role: Client, how: Watch, within: 5 * time.Minute, major: 1, minor: 19},
	{component: APIServer, flag: "proxy-client-cert-file", key: "proxy-client-key-file", role: Client, how: Watch, within: 5 * time.Minute, major: 1, minor: 20},
	{component: APIServer, flag: "etcd-certfile", key: "etcd-keyfile", role: Client, how: Handshake, major: 1, minor: 14},
	{component: APIServer, flag: "client-ca-file", role: Trust, how: Watch, within: time.Minute, major: 1, minor: 17},
	{component: APIServer, flag: "requestheader-client-ca-file", role: Trust, how: Watch, within: time.Minute, major: 1, minor: 17},
	{component: APIServer, flag: "etcd-cafile", role: Trust, how: Restart},
	{component: APIServer, flag: "kubelet-certificate-authority", role: Trust, how: Restart},
	{component: APIServer, flag: "service-account-key-file", role: Tokens, how: Restart},
	{component: APIServer, flag: "service-account-signing-key-file", role: Tokens, how: Restart},

	{component: ControllerManager, flag: "kubeconfig", role: Config, how: Restart},
	{component: ControllerManager, flag: "authentication-kubeconfig", role: Config, how: Restart},
	{component: ControllerManager, flag: "authorization-kubeconfig", role: Config, how: Restart},
	{component: ControllerManager, flag: "tls-cert-file", key: "tls-private-key-file", role: Serving, how: Watch, within: time.Minute, major: 1, minor: 17},
	{component: ControllerManager, flag: "cluster-signing-cert-file", key: "cluster-signing-key-file", role: Signing, how: Watch, within: time.Minute, major: 1, minor: 18},
	{component: ControllerManager, flag: "client-ca-file", role: Trust, how: Watch, within: time.Minute, major: 1, minor: 17},
	{component: ControllerManager, flag: "requestheader-client-ca-file", role: Trust, how: Watch, within: time.Minute, major: 1, minor: 17},
	{component: ControllerManager, flag: "root-ca-file", role: Trust, how: Restart},
	{component: ControllerManager, flag: "service-account-private-key-file", role: Tokens, how: Restart},

	{component: Scheduler, flag: "kubeconfig", role: Config, how: Restart},
	{component: Scheduler, flag: "authentication-kubeconfig", role: Config, how: Restart},
	{component: Scheduler, flag: "authorization-kubeconfig", role: Config, how: Restart},
	{component: Scheduler, flag: "tls-cert-file", key: "tls-private-key-file", role: Serving, how: Watch, within: time.Minute, major: 1, minor: 17},
	{component: Scheduler, flag: "client-ca-file", role: Trust, how: Watch, within: time.Minute, major: 1, minor: 17},
	{component: Scheduler, flag: "requestheader-client-ca-file", role: Trust, how: Watch, within: time.Minute, major: 1, minor: 17},

	{component: Kubelet, flag: "kubeconfig", role: Config, how: Rotate},
	{component: Kubelet, flag: "tlsCertFile", role: Serving, how: Watch, within: time.Minute},
	{component: Kubelet, flag: "clientCAFile", role: Trust, how: Watch, within: time.Minute},
}

// reloadOf applies the table to the version that runs.
func (u use) reloadOf(c Component, agent Agent) Reload {
	if c.Name == Kubelet {
		return u.kubeletReload(agent)
	}
	if u.how == Restart || u.major == 0 {
		return Reload{How: u.how, Within: u.within}
	}
	since := Version{Major: u.major, Minor: u.minor}
	if v, err := ParseVersion(c.Version); err != nil || !v.AtLeast(u.major, u.minor) {
		return Reload{How: Restart, Since: since.String()}
	}
	return Reload{How: u.how, Within: u.within, Since: since.String()}
}

// kubeletReload: a kubelet without rotation reads its kubeconfig once; a serving
// certificate from a file is watched only where the gate says so (it is on by default from
// v1.36, and the version of the kubelet does not stand in its files).
func (u use) kubeletReload(agent Agent) Reload {
	switch {
	case u.flag == "kubeconfig" && !agent.RotateCertificates:
		return Reload{How: Restart}
	case u.flag == "tlsCertFile" && agent.ServerTLSBootstrap:
		return Reload{How: Rotate}
	case u.flag == "tlsCertFile" && (agent.ReloadServing == nil || !*agent.ReloadServing):
		return Reload{How: Restart}
	}
	return Reload{How: u.how, Within: u.within}
}
