// Package etcd looks at an etcd cluster before and after a member is restarted: who its
// members are, which of them work, and whether the cluster can do without one of them.
//
// Start with Dial and Client.Look; State.MayRestart and State.Recovered judge what was
// seen. Login proves that etcd accepts a client certificate.
//
// The package only reads. It adds, removes, promotes and stops no member, lifts no alarm
// and stores no key, and it tries each question once: who wants to wait asks again.
package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// Config says how to reach a cluster.
type Config struct {
	// Endpoints are client URLs of one or more members, as "https://10.0.0.1:2379". Those
	// of the others are asked for.
	Endpoints []string
	// TLS holds the client's certificate and the CAs that it trusts. Nil: no TLS.
	TLS *tls.Config
}

// Client talks to one cluster. Close it after use.
type Client struct {
	config Config
	client *clientv3.Client
}

// Dial makes a client. It does not contact the cluster yet; the first question does. The
// context counts for Dial alone.
func Dial(ctx context.Context, config Config) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	if len(config.Endpoints) == 0 {
		return nil, errors.New("connect to etcd: no endpoint is known")
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: config.Endpoints, TLS: config.TLS,
		Logger:          zap.NewNop(),
		MaxUnaryRetries: 1,
		DialOptions:     []grpc.DialOption{grpc.WithChainUnaryInterceptor(failFast), grpc.WithContextDialer(dial)},
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %s: %w", strings.Join(config.Endpoints, ", "), err)
	}
	return &Client{config, client}, nil
}

// Close ends the client's connections.
func (c *Client) Close() error { return c.client.Close() }

// ID is the number of a member or a cluster. It is written in hexadecimal, as etcd does.
type ID uint64

// String returns the number as etcd prints it.
func (id ID) String() string { return strconv.FormatUint(uint64(id), 16) }

// MarshalText is String, for JSON.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText writes.
func (id *ID) UnmarshalText(text []byte) error {
	n, err := strconv.ParseUint(string(text), 16, 64)
	if err != nil {
		return fmt.Errorf("etcd ID %q: %w", text, err)
	}
	*id = ID(n)
	return nil
}

// Member is an entry of the cluster's list of members.
type Member struct {
	ID         ID       `json:"id"`
	Name       string   `json:"name"` // empty until the member has started for the first time
	PeerURLs   []string `json:"peerURLs"`
	ClientURLs []string `json:"clientURLs"`
	Learner    bool     `json:"learner"` // gets the data, but has no vote
}

// Members returns the list of members as one member knows it. It needs no quorum.
func (c *Client) Members(ctx context.Context) ([]Member, error) {
	members, _, err := c.members(ctx)
	return members, err
}

func (c *Client) members(ctx context.Context) ([]Member, ID, error) {
	answer, err := c.client.MemberList(ctx, clientv3.WithSerializable())
	if err != nil {
		return nil, 0, fmt.Errorf("list the members of etcd at %s: %w", strings.Join(c.config.Endpoints, ", "), classify(err))
	}
	members := make([]Member, 0, len(answer.Members))
	for _, m := range answer.Members {
		members = append(members, memberOf(m))
	}
	return members, ID(answer.Header.GetClusterId()), nil
}

func memberOf(m *etcdserverpb.Member) Member {
	return Member{ID: ID(m.ID), Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: m.ClientURLs, Learner: m.IsLearner}
}

// Login proves that etcd at an endpoint accepts the client certificate in config: it asks
// for the list of members, which any client that may connect can get, with or without a
// quorum. The error wraps ErrRefused when etcd does not accept the certificate.
func Login(ctx context.Context, endpoint string, config *tls.Config) error {
	client, err := Dial(ctx, Config{Endpoints: []string{endpoint}, TLS: config})
	if err != nil {
		return err
	}
	_, err = client.Members(ctx)
	return errors.Join(err, client.Close())
}
