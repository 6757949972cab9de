package pki

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
)

// Algorithm names a kind and size of key, spelled as in the encryptionAlgorithm field
// of kubeadm's ClusterConfiguration (kubeadm.k8s.io/v1beta4).
type Algorithm string

// The algorithms that kubeadm's configuration knows.
const (
	RSA2048   Algorithm = "RSA-2048"
	RSA3072   Algorithm = "RSA-3072"
	RSA4096   Algorithm = "RSA-4096"
	ECDSAP256 Algorithm = "ECDSA-P256"
	ECDSAP384 Algorithm = "ECDSA-P384"
)

// Algorithms that are met in existing files and can be carried over, but that no
// configuration may ask for: kubeadm refuses to read Ed25519 keys.
const (
	ECDSAP521 Algorithm = "ECDSA-P521"
	Ed25519   Algorithm = "Ed25519"
)

// MinRSABits is the smallest RSA modulus that is made or called sound
// (NIST SP 800-131A Rev. 2).
const MinRSABits = 2048

// Algorithms lists what ParseAlgorithm accepts, in the order of kubeadm's documentation.
func Algorithms() []Algorithm {
	return []Algorithm{RSA2048, RSA3072, RSA4096, ECDSAP256, ECDSAP384}
}

// ParseAlgorithm returns the Algorithm of that exact, case-sensitive name.
func ParseAlgorithm(name string) (Algorithm, error) {
	names := make([]string, 0, 5)
	for _, a := range Algorithms() {
		if string(a) == name {
			return a, nil
		}
		names = append(names, string(a))
	}
	return "", fmt.Errorf("unknown algorithm %q: want one of %s", name, strings.Join(names, ", "))
}

// AlgorithmOf names the algorithm of a public key. RSA keys of any size get a name
// ("RSA-1024"); a key of another kind gets its Go type, or "unknown".
func AlgorithmOf(pub crypto.PublicKey) Algorithm {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return Algorithm("RSA-" + strconv.Itoa(k.N.BitLen()))
	case *ecdsa.PublicKey:
		return Algorithm("ECDSA-" + strings.ReplaceAll(k.Curve.Params().Name, "-", ""))
	case ed25519.PublicKey:
		return Ed25519
	case nil: // what crypto/x509 leaves for keys that it doesn't know
		return "unknown"
	}
	return Algorithm(fmt.Sprintf("%T", pub))
}

// IsRSA says whether keys of this algorithm can encipher keys (RFC 4055) as well as sign.
func (a Algorithm) IsRSA() bool { return strings.HasPrefix(string(a), "RSA-") }

// Weak says whether the algorithm is below today's minimum: RSA under MinRSABits,
// elliptic curves under 256 bits, or of an unknown kind.
func (a Algorithm) Weak() bool {
	if bits, ok := strings.CutPrefix(string(a), "RSA-"); ok {
		n, err := strconv.Atoi(bits)
		return err != nil || n < MinRSABits
	}
	switch a {
	case ECDSAP256, ECDSAP384, ECDSAP521, Ed25519:
		return false
	}
	return true
}

// GenerateKey makes a new private key with the system's random source.
func GenerateKey(a Algorithm) (*Key, error) {
	var signer crypto.Signer
	var err error
	switch a {
	case ECDSAP256:
		signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case ECDSAP384:
		signer, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case ECDSAP521:
		signer, err = ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case Ed25519:
		_, signer, err = ed25519.GenerateKey(rand.Reader)
	default:
		bits, isRSA := strings.CutPrefix(string(a), "RSA-")
		n, convErr := strconv.Atoi(bits)
		if !isRSA || convErr != nil || n < MinRSABits || n > 16384 {
			return nil, fmt.Errorf("generate key: algorithm %q is not supported", a)
		}
		signer, err = rsa.GenerateKey(rand.Reader, n)
	}
	if err != nil {
		return nil, fmt.Errorf("generate %s key: %w", a, err)
	}
	return newKey(signer), nil
}

// GenerateKeys makes one key for each element of algorithms, in that order, on all
// processors at once.
//
// The time to find an RSA key varies widely. Keys of one algorithm are interchangeable,
// so every worker keeps searching until enough keys exist: no processor idles while
// another is still busy with the last one.
func GenerateKeys(ctx context.Context, algorithms []Algorithm) ([]*Key, error) {
	slots := map[Algorithm][]int{}
	var order []Algorithm
	for i, a := range algorithms {
		if slots[a] == nil {
			order = append(order, a)
		}
		slots[a] = append(slots[a], i)
	}
	keys := make([]*Key, len(algorithms))
	for _, a := range order {
		if ctx.Err() != nil { // select picks at random when a key is ready as well
			return nil, cancelled(ctx)
		}
		made, err := generateMany(ctx, a, len(slots[a]))
		if err != nil {
			return nil, err
		}
		for n, i := range slots[a] {
			keys[i] = made[n]
		}
	}
	return keys, nil
}

func generateMany(ctx context.Context, a Algorithm, n int) ([]*Key, error) {
	type result struct {
		key *Key
		err error
	}
	// With room for every result no worker waits. Those that finish after the last key that
	// was needed find it there and stop, so that they don't compete with what comes next.
	workers := runtime.GOMAXPROCS(0)
	results := make(chan result, n+workers)
	var finished atomic.Int64
	for range workers {
		go func() {
			for finished.Load() < int64(n) && ctx.Err() == nil {
				key, err := GenerateKey(a)
				finished.Add(1)
				results <- result{key, err}
			}
		}()
	}
	keys := make([]*Key, 0, n)
	for len(keys) < n {
		select {
		case r := <-results:
			if r.err != nil {
				return nil, r.err
			}
			keys = append(keys, r.key)
		case <-ctx.Done():
			return nil, cancelled(ctx)
		}
	}
	return keys, nil
}

func cancelled(ctx context.Context) error {
	return fmt.Errorf("generate keys: %w", context.Cause(ctx))
}
