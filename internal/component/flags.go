package component

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
)

// Flags are the command-line flags of a program by name, without dashes.
type Flags map[string][]string

// parseFlags reads "--name=value", "--name value" and "--switch". A value that follows a
// space is told from the next flag by its dash. Kubernetes' programs take "_" in a name for "-".
func parseFlags(words []string) Flags {
	flags := Flags{}
	for i := 0; i < len(words); i++ {
		word := words[i]
		name := strings.TrimLeft(word, "-")
		if name == word || name == "" {
			continue
		}
		value := "true"
		if before, after, ok := strings.Cut(name, "="); ok {
			name, value = before, after
		} else if i+1 < len(words) && !strings.HasPrefix(words[i+1], "-") {
			i++
			value = words[i]
		}
		name = strings.ReplaceAll(name, "_", "-")
		flags[name] = append(flags[name], value)
	}
	return flags
}

// addEnvironment adds settings from variables such as ETCD_CERT_FILE. Flags win over them.
func (f Flags) addEnvironment(prefix string, env []environment) {
	for _, e := range env {
		name, ok := strings.CutPrefix(e.Name, prefix)
		if !ok || e.Value == "" {
			continue
		}
		name = strings.ReplaceAll(strings.ToLower(name), "_", "-")
		if _, set := f[name]; !set {
			f[name] = []string{e.Value}
		}
	}
}

// Get returns the value that counts: the last one. It is empty when the flag is not set.
func (f Flags) Get(name string) string {
	values := f[name]
	if len(values) == 0 {
		return ""
	}
	return values[len(values)-1]
}

// Address is a host and port that a program listens on or talks to.
type Address struct {
	Scheme string `json:"scheme"`
	Host   string `json:"host"`
	Port   int    `json:"port"`
}

// HostPort returns "127.0.0.1:2379", with brackets for IPv6.
func (a Address) HostPort() string { return net.JoinHostPort(a.Host, strconv.Itoa(a.Port)) }

func (a Address) String() string { return a.Scheme + "://" + a.HostPort() }

// urls reads a comma-separated list of URLs, such as etcd's. Those without a port that can
// be dialled (unix sockets, port 0) are left out.
func (f Flags) urls(name string) []Address {
	var found []Address
	for _, text := range strings.Split(f.Get(name), ",") {
		if a, err := ParseAddress(strings.TrimSpace(text)); err == nil {
			found = append(found, a)
		}
	}
	return found
}

// ParseAddress reads a URL such as https://192.0.2.10:6443; https without a port means 443.
func ParseAddress(text string) (Address, error) {
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || u.Scheme != "http" && u.Scheme != "https" {
		return Address{}, fmt.Errorf("%q is not the URL of a server", text)
	}
	a := Address{Scheme: u.Scheme, Host: dialable(u.Hostname()), Port: map[string]int{"http": 80, "https": 443}[u.Scheme]}
	if u.Port() != "" {
		if a.Port, err = strconv.Atoi(u.Port()); err != nil || a.Port < 1 || a.Port > 65535 {
			return Address{}, fmt.Errorf("%q has no usable port", text)
		}
	}
	return a, nil
}

// dialable turns "every address" into one that reaches this machine.
func dialable(host string) string {
	switch host {
	case "0.0.0.0", "":
		return "127.0.0.1"
	case "::":
		return "::1"
	}
	return host
}

// securePort is where kube-controller-manager, kube-scheduler and kube-apiserver serve.
func (f Flags) securePort(defaultPort int) (int, bool) {
	text := f.Get("secure-port")
	if text == "" {
		return defaultPort, true
	}
	port, err := strconv.Atoi(text)
	return port, err == nil && port > 0 && port <= 65535
}
