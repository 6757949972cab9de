package lab

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"os"
	"path"
	"slices"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/kubepki/kubepki/internal/create"
	"github.com/kubepki/kubepki/internal/pkidir"
	"github.com/kubepki/kubepki/internal/snapshot"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// makeTree makes the files of a machine as "kubeadm init" leaves them on the first node and
// "kubeadm join" on the others.
func (l *Lab) makeTree(ctx context.Context, n *Node) error {
	first := l.nodes[0]
	for _, dir := range []string{manifestsDir, kubeletCertDir, "/var/log/pods", "/run/containerd"} {
		if err := os.MkdirAll(n.Path(dir), 0o755); err != nil {
			return err
		}
	}
	if n != first {
		if err := n.copyShared(first); err != nil {
			return err
		}
	}
	if n.ControlPlane {
		if err := n.makeCertificates(ctx, n == first); err != nil {
			return err
		}
		if err := os.MkdirAll(n.Path(etcdDataDir), 0o700); err != nil {
			return err
		}
		if err := l.writeManifests(n); err != nil {
			return err
		}
	}
	return n.makeKubelet(first, l.options.ServerTLSBootstrap)
}

// copyShared copies what all machines have in common: the CA's certificate, and to control
// planes everything that signs.
func (n *Node) copyShared(first *Node) error {
	names := []string{"ca.crt"}
	if n.ControlPlane {
		for _, e := range layout.OfKind(layout.CA) {
			names = append(names, e.Base+".crt", e.Base+".key")
		}
		names = append(names, "sa.key", "sa.pub")
	}
	for _, name := range names {
		file := path.Join(n.cluster.CertificatesDir, name)
		data, err := first.read(file)
		if err != nil {
			return err
		}
		mode := os.FileMode(create.CertificateMode)
		if path.Ext(name) == ".key" {
			mode = create.KeyMode
		}
		if err := n.write(file, data, mode); err != nil {
			return err
		}
	}
	return nil
}

// makeCertificates lets kubepki make certificates and kubeconfigs. Machines that join have
// no super-admin.conf, and their kubelet.conf comes from elsewhere.
func (n *Node) makeCertificates(ctx context.Context, first bool) error {
	entries := layout.Entries()
	if !first {
		entries = slices.DeleteFunc(entries, func(e layout.Entry) bool {
			return e.Name == layout.NameSuperAdmin || e.Name == layout.NameKubelet
		})
	}
	tree, err := pkidir.Open(ctx, pkidir.Options{
		Root: n.Root, Certificates: n.cluster.CertificatesDir, Kubeconfigs: n.cluster.KubeconfigDir, Now: n.now,
	})
	if err != nil {
		return err
	}
	defer tree.Close()
	files := snapshot.New(n.cluster, tree.ReadFile)
	plan, err := create.MakePlan(files, entries, n.now())
	if err != nil {
		return err
	}
	changes, err := plan.Make(ctx, files)
	if err != nil {
		return err
	}
	_, err = tree.Commit(ctx, pkidir.Commit{Reason: "init", Changes: changes})
	return err
}

func (l *Lab) writeManifests(n *Node) error {
	plane := controlPlane{cluster: n.cluster, extra: l.options.ExtraArgs}
	for _, m := range l.nodes {
		if m.ControlPlane {
			plane.members = append(plane.members, member{m.Name, m.Address})
		}
	}
	files, err := plane.manifests()
	if err != nil {
		return err
	}
	for name, data := range files {
		if err := n.write(path.Join(manifestsDir, name+".yaml"), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// makeKubelet makes the kubelet's files: configuration, client certificate in its own store,
// and the kubeconfig that refers to it.
func (n *Node) makeKubelet(first *Node, serverBootstrap bool) error {
	config, err := n.kubeletConfiguration(serverBootstrap)
	if err != nil {
		return err
	}
	if err := n.write(kubeletConfigFile, config, 0o644); err != nil {
		return err
	}
	instance := fmt.Sprintf("containerRuntimeEndpoint: %q\n", "unix://"+runtimeSocket)
	if err := n.write(kubeletInstanceFile, []byte(instance), 0o644); err != nil {
		return err
	}
	flags := fmt.Sprintf("KUBELET_KUBEADM_ARGS=\"--hostname-override=%s --node-ip=%s\"\n", n.Name, n.Address)
	if err := n.write(kubeletFlagsFile, []byte(flags), 0o644); err != nil {
		return err
	}
	authority, err := snapshot.New(first.cluster, first.read).Authority(layout.NameCA)
	if err != nil {
		return err
	}
	client, server := n.kubeletProfiles()
	if err := n.makeKubeletPair(authority, client, kubeletClientFile); err != nil {
		return err
	}
	if serverBootstrap {
		if err := n.makeKubeletPair(authority, server, kubeletServerFile); err != nil {
			return err
		}
	}
	conf, err := n.kubeletKubeconfig(n == first, pki.CertificatesPEM(authority.Bundle...))
	if err != nil {
		return err
	}
	return n.write(kubeletConf, conf, 0o600)
}

// kubeletProfiles are the certificates that the cluster issues to a kubelet.
func (n *Node) kubeletProfiles() (client, server pki.Profile) {
	subject := pkix.Name{CommonName: "system:node:" + n.Name, Organization: []string{"system:nodes"}}
	client = pki.Profile{Subject: subject, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	server = pki.Profile{
		Subject: subject, Usages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: []string{n.Name}, IPAddresses: addresses(n.Address),
	}
	return client, server
}

// makeKubeletPair puts a certificate and its key into the kubelet's store: one file with the
// time in its name, and a link to it. A real kubelet makes the link absolute; here it is
// relative, so that it leads to the same file whether or not the reader takes root into
// account.
func (n *Node) makeKubeletPair(authority *snapshot.Authority, profile pki.Profile, link string) error {
	key, err := pki.GenerateKey(n.cluster.Algorithm)
	if err != nil {
		return err
	}
	keyPEM, err := key.PEM()
	if err != nil {
		return err
	}
	now := n.now()
	validity, err := authority.Clamp(pki.ValidFor(now, n.cluster.Validity), now)
	if err != nil {
		return err
	}
	cert, err := authority.Issue(profile, key.Public(), validity)
	if err != nil {
		return err
	}
	name := pairName(link, now)
	if err := n.write(name, append(pki.CertificatesPEM(cert), keyPEM...), 0o600); err != nil {
		return err
	}
	return os.Symlink(path.Base(name), n.Path(link))
}

// pairName is the file behind kubelet-client-current.pem for a pair made at that time.
func pairName(link string, now time.Time) string {
	const current = "current.pem"
	return link[:len(link)-len(current)] + now.Local().Format("2006-01-02-15-04-05") + ".pem"
}

// kubeletKubeconfig is kubelet.conf as it is some time after init or join: it refers to the
// kubelet's store. On the first node the names are kubeadm's, elsewhere the kubelet's own.
func (n *Node) kubeletKubeconfig(first bool, ca []byte) ([]byte, error) {
	server, err := n.cluster.Server(layout.Entry{Name: layout.NameKubelet, LocalServer: n.ControlPlane})
	if err != nil {
		return nil, err
	}
	cluster, user, context := "default-cluster", "default-auth", "default-context"
	if first {
		cluster, user = n.cluster.Name, "system:node:"+n.Name
		context = user + "@" + cluster
	}
	return yaml.Marshal(map[string]any{
		"apiVersion": "v1", "kind": "Config", "preferences": map[string]any{}, "current-context": context,
		"clusters": []map[string]any{{"name": cluster, "cluster": map[string]any{"certificate-authority-data": ca, "server": server}}},
		"contexts": []map[string]any{{"name": context, "context": map[string]any{"cluster": cluster, "user": user}}},
		"users":    []map[string]any{{"name": user, "user": map[string]any{"client-certificate": kubeletClientFile, "client-key": kubeletClientFile}}},
	})
}

// kubeletConfiguration is config.yaml as kubeadm writes it, with the node's own address in
// the places where the lab needs it.
func (n *Node) kubeletConfiguration(serverBootstrap bool) ([]byte, error) {
	zero := "0s"
	config := map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1",
		"kind":       "KubeletConfiguration",
		"address":    n.Address.String(),
		"authentication": map[string]any{
			"anonymous": map[string]any{"enabled": false},
			"webhook":   map[string]any{"cacheTTL": zero, "enabled": true},
			"x509":      map[string]any{"clientCAFile": path.Join(n.cluster.CertificatesDir, "ca.crt")},
		},
		"authorization": map[string]any{
			"mode": "Webhook", "webhook": map[string]any{"cacheAuthorizedTTL": zero, "cacheUnauthorizedTTL": zero},
		},
		"cgroupDriver":             "systemd",
		"clusterDNS":               []string{"10.96.0.10"},
		"clusterDomain":            n.cluster.DNSDomain,
		"containerRuntimeEndpoint": "unix://" + runtimeSocket,
		"fileCheckFrequency":       n.times.fileCheck.String(),
		"healthzBindAddress":       n.Address.String(),
		"healthzPort":              kubeletHealthzPort,
		"rotateCertificates":       true,
		"staticPodPath":            manifestsDir,
	}
	if serverBootstrap {
		config["serverTLSBootstrap"] = true
	}
	return yaml.Marshal(config)
}
