package cli

import (
	"context"
	"crypto/x509"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/config"
	"github.com/kubepki/kubepki/internal/rotation"
	"github.com/kubepki/kubepki/pki"
)

// A program that an earlier process could not tell is told by the next, and nobody twice.
func TestHooksHearOfACertificateInTheEnd(t *testing.T) {
	dir := t.TempDir()
	r := heldRotator(t, dir)
	reached := filepath.Join(dir, "reached")
	script := func(then string) config.Hook {
		return config.Hook{Command: []string{"/bin/sh", "-c", "cd " + dir + " && " + then}}
	}
	hooks := []config.Hook{
		script("touch tried && test -e reached && echo $KUBEPKI_IDENTITY $KUBEPKI_CERTIFICATE $KUBEPKI_SERIAL >> told"),
		{Identities: []string{"another"}, Command: script("touch another").Command},
	}
	tell := func(ctx context.Context, until string) {
		t.Helper()
		ctx, cancel := context.WithCancel(ctx)
		h := rotationHooks{hooks: hooks, log: slog.New(slog.DiscardHandler)}
		h.tell(ctx, r, r.Held())
		for deadline := time.Now().Add(time.Minute); until != ""; time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat(filepath.Join(dir, until)); err == nil {
				break
			} else if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		if until == "tried" {
			cancel() // the process ends while the hook is tried again and again
		}
		h.running.Wait()
		cancel()
	}
	tell(t.Context(), "tried")
	if err := os.WriteFile(reached, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, until := range []string{"told", ""} {
		tell(t.Context(), until)
		want := "client " + r.Held().File + " " + r.Held().Leaf().SerialNumber.Text(16)
		if data, err := os.ReadFile(filepath.Join(dir, "told")); err != nil || strings.TrimSpace(string(data)) != want {
			t.Errorf("told %q (%v), want %q", data, err, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "another")); err == nil {
		t.Error("the hook of another identity was called")
	}
}

// heldRotator has a certificate in use.
func heldRotator(t *testing.T, dir string) *rotation.Rotator {
	t.Helper()
	key, err := pki.GenerateKey(pki.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	validity := pki.ValidFor(time.Now(), time.Hour)
	ca, err := pki.NewAuthority("kubernetes", key, validity)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.Issue(pki.Profile{}, key.Public(), validity)
	if err != nil {
		t.Fatal(err)
	}
	store := rotation.Store{Dir: filepath.Join(dir, "pki"), Prefix: "kubelet-client"}
	if err := store.Switch(&rotation.Pair{Chain: []*x509.Certificate{cert}, Key: key}, time.Now()); err != nil {
		t.Fatal(err)
	}
	r := &rotation.Rotator{Name: "client", Store: store, Now: time.Now, Log: slog.New(slog.DiscardHandler)}
	r.Open()
	return r
}
