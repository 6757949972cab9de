// Command kubeconfigcheck loads kubeconfig files the way kubectl and every client-go program do, and prints what it made
// of each as one line of JSON.
//
//	kubeconfigcheck FILE...
//
// It goes as far as a client can go without a server: the file is loaded and validated, a rest.Config is built from its
// current context, and from that a TLS configuration, which parses the CA certificates and pairs the client certificate
// with its key. It never opens a connection. Exit status: 0 when every file is usable, 1 otherwise.
package main

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"os"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/cert"
)

// report is what a client learns from a kubeconfig file.
type report struct {
	File           string   `json:"file"`
	Server         string   `json:"server"`
	CurrentContext string   `json:"currentContext"`
	Cluster        string   `json:"cluster"`
	User           string   `json:"user"`
	CommonName     string   `json:"commonName"`
	Organizations  []string `json:"organizations"`
	// CASubjects names the certificates that the client will trust, in file order.
	CASubjects []string `json:"caSubjects"`
}

func main() {
	status := 0
	out := json.NewEncoder(os.Stdout)
	for _, file := range os.Args[1:] {
		r, err := check(file)
		if err == nil {
			err = out.Encode(r)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "kubeconfigcheck: %s: %v\n", file, err)
			status = 1
		}
	}
	os.Exit(status)
}

func check(file string) (*report, error) {
	raw, err := clientcmd.LoadFromFile(file)
	if err != nil {
		return nil, err
	}
	if err := clientcmd.Validate(*raw); err != nil {
		return nil, err
	}
	config, err := clientcmd.NewDefaultClientConfig(*raw, nil).ClientConfig()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := rest.TLSConfigFor(config)
	if err != nil {
		return nil, err
	}
	if tlsConfig == nil || tlsConfig.GetClientCertificate == nil {
		return nil, fmt.Errorf("no client certificate")
	}
	pair, err := tlsConfig.GetClientCertificate(nil)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return nil, err
	}
	authorities, err := cert.ParseCertsPEM(config.CAData)
	if err != nil {
		return nil, fmt.Errorf("certificate-authority-data: %w", err)
	}
	current := raw.Contexts[raw.CurrentContext]
	r := &report{
		File:           file,
		Server:         config.Host,
		CurrentContext: raw.CurrentContext,
		Cluster:        current.Cluster,
		User:           current.AuthInfo,
		CommonName:     leaf.Subject.CommonName,
		Organizations:  leaf.Subject.Organization,
	}
	for _, ca := range authorities {
		r.CASubjects = append(r.CASubjects, ca.Subject.CommonName)
	}
	return r, nil
}
