package cli

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"

	"github.com/kubepki/kubepki/internal/component"
	"github.com/kubepki/kubepki/internal/etcd"
	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// etcdState looks at the cluster of this node's etcd, with the client certificates of the
// tree.
func (s *settler) etcdState(ctx context.Context) (etcd.State, error) {
	server, _ := s.set.Find(component.Etcd)
	var endpoints []string
	for _, l := range server.Listeners() {
		if l.Flag == "cert-file" {
			endpoints = append(endpoints, l.Address.String())
		}
	}
	config, err := s.etcdTLS()
	if err != nil {
		return etcd.State{}, err
	}
	client, err := etcd.Dial(ctx, etcd.Config{Endpoints: endpoints, TLS: config})
	if err != nil {
		return etcd.State{}, err
	}
	defer client.Close()
	return client.Look(ctx)
}

// etcdTLS is a client of etcd: with the API server's certificate, else the one for probes.
func (s *settler) etcdTLS() (*tls.Config, error) {
	ca, _ := layout.Find(layout.NameEtcdCA)
	bundle, err := s.tree.Certificates(ca)
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	for _, c := range bundle {
		roots.AddCert(c)
	}
	var errs []error
	for _, name := range []string{"apiserver-etcd-client", "etcd-healthcheck-client"} {
		entry, _ := layout.Find(name)
		chain, err := s.tree.Certificates(entry)
		var key *pki.Key
		if err == nil {
			key, err = s.tree.Key(entry)
		}
		if err == nil {
			err = pki.CheckPair(chain[0], key)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		pair := tls.Certificate{PrivateKey: key, Leaf: chain[0]}
		for _, c := range chain {
			pair.Certificate = append(pair.Certificate, c.Raw)
		}
		return &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, Time: s.app.Now}, nil
	}
	return nil, errors.Join(errs...)
}
