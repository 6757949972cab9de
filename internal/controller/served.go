package controller

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
)

// maxChain bounds what a node may present.
const maxChain = 8

// ServedChain returns the certificates that a server presents, leaf first, of which nothing is verified: the
// decision does that. It sends no data beyond the handshake. Loopback, link-local and multicast addresses are
// not dialled: an answer from there would not be the node's.
func ServedChain(ctx context.Context, at netip.AddrPort) ([]*x509.Certificate, error) {
	a := at.Addr().Unmap()
	if !a.IsValid() || a.IsLoopback() && !loopbackAllowed || a.IsUnspecified() || a.IsMulticast() || a.IsLinkLocalUnicast() {
		return nil, fmt.Errorf("%s is no address of a node", at)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", at.String())
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	// What is presented counts, and is judged later.
	session := tls.Client(conn, &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}) //nolint:gosec // see above
	// A server that asks for a client certificate and gets none may end the handshake after it has shown its own.
	err = session.HandshakeContext(ctx)
	chain := session.ConnectionState().PeerCertificates
	switch {
	case len(chain) > maxChain:
		return nil, fmt.Errorf("%s presents %d certificates", at, len(chain))
	case len(chain) > 0:
		return chain, nil
	case err != nil:
		return nil, err
	}
	return nil, errors.New("no certificate was presented")
}

// loopbackAllowed is for tests, whose nodes have no other addresses.
var loopbackAllowed = false
