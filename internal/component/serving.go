package component

// Listener is a port on which a component serves TLS.
type Listener struct {
	Component Name    `json:"component"`
	Address   Address `json:"address"`
	// Flag names the flag whose certificate is served there. Empty means that the program
	// makes its own at each start.
	Flag string `json:"flag,omitempty"`
}

// Ports of the components unless their flags say otherwise.
const (
	apiServerPort         = 6443
	controllerManagerPort = 10257
	schedulerPort         = 10259
	kubeletPort           = 10250
)

// Listeners returns the TLS ports of a component, the one that others use first.
func (c Component) Listeners() []Listener {
	var found []Listener
	add := func(flag string, addresses ...Address) {
		for _, a := range addresses {
			if a.Scheme == "https" {
				found = append(found, Listener{c.Name, a, flag})
			}
		}
	}
	switch c.Name {
	case APIServer:
		if port, ok := c.Flags.securePort(apiServerPort); ok {
			add("tls-cert-file", Address{"https", c.apiServerHost(), port})
		}
	case Etcd:
		add("cert-file", c.Flags.urls("listen-client-urls")...)
		add("peer-cert-file", c.Flags.urls("listen-peer-urls")...)
		add("cert-file", c.Flags.urls("listen-metrics-urls")...)
	case ControllerManager, Scheduler:
		defaultPort := map[Name]int{ControllerManager: controllerManagerPort, Scheduler: schedulerPort}[c.Name]
		if port, ok := c.Flags.securePort(defaultPort); ok {
			flag := ""
			if c.Flags.Get("tls-cert-file") != "" {
				flag = "tls-cert-file"
			}
			add(flag, Address{"https", dialable(c.Flags.Get("bind-address")), port})
		}
	case Kubelet:
		if port := kubeletPortOf(c.Flags); port > 0 {
			add("tlsCertFile", Address{"https", dialable(c.Flags.Get("address")), port})
		}
	}
	return found
}

// apiServerHost is an address under which this node's own API server answers: the one it
// binds to, or, where that is every address, the one it advertises.
func (c Component) apiServerHost() string {
	for _, flag := range []string{"bind-address", "advertise-address"} {
		if host := c.Flags.Get(flag); host != "" && host != "0.0.0.0" && host != "::" {
			return host
		}
	}
	return "127.0.0.1"
}

// Servers returns the addresses that a flag tells a program to talk to, such as
// --etcd-servers of kube-apiserver.
func (c Component) Servers(flag string) []Address { return c.Flags.urls(flag) }
