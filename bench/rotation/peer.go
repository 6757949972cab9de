package main

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/certificate"
)

// rolePeer is the first argument of a process that plays the part of a kubelet which keeps its certificate.
const rolePeer = "peer"

// peer keeps the client certificate of the node that dir is named after with client-go's certificate manager.
func peer(bootstrap, dir string) error {
	access, err := clientcmd.BuildConfigFromFlags("", bootstrap)
	if err != nil {
		return err
	}
	folder := filepath.Join(dir, "pki")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	store, err := certificate.NewFileStore("kubelet-client", folder, folder, "", "")
	if err != nil {
		return err
	}
	manager, err := certificate.NewManager(&certificate.Config{
		ClientsetFn: func(*tls.Certificate) (kubernetes.Interface, error) { return kubernetes.NewForConfig(access) },
		Template: &x509.CertificateRequest{Subject: pkix.Name{
			CommonName: "system:node:" + filepath.Base(dir), Organization: []string{"system:nodes"},
		}},
		SignerName: certificatesv1.KubeAPIServerClientKubeletSignerName,
		GetUsages: func(any) []certificatesv1.KeyUsage {
			return []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
		},
		CertificateStore: store,
	})
	if err != nil {
		return err
	}
	manager.Start()
	end := make(chan os.Signal, 1)
	signal.Notify(end, syscall.SIGTERM, os.Interrupt)
	<-end
	return nil
}
