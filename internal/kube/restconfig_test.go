package kube

import (
	"bytes"
	"encoding/base64"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"k8s.io/client-go/rest"
)

func TestRESTConfigOfALongRunningClient(t *testing.T) {
	_, files := machine(t)
	admin := files["/etc/kubernetes/admin.conf"]
	config, err := RESTConfig(admin, Options{UserAgent: "kubepki-controller"})
	if err != nil {
		t.Fatal(err)
	}
	if config.QPS >= 0 || config.Timeout != 0 || config.UserAgent != "kubepki-controller" || len(config.CertData) == 0 || config.Insecure {
		t.Errorf("QPS %v, timeout %v, user agent %q, insecure %v", config.QPS, config.Timeout, config.UserAgent, config.Insecure)
	}
}

func TestRESTConfigLeavesFilesToBeReadAgainWhenTheyChange(t *testing.T) {
	_, files := machine(t)
	dir := t.TempDir()
	admin := files["/etc/kubernetes/admin.conf"]
	for field, file := range map[string]string{"client-certificate": "client.crt", "client-key": "client.key"} {
		data := regexp.MustCompile(field + `-data: (\S+)`)
		content, err := base64.StdEncoding.DecodeString(string(data.FindSubmatch(admin)[1]))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), content, 0o600); err != nil {
			t.Fatal(err)
		}
		admin = data.ReplaceAll(admin, []byte(field+": "+file))
	}
	if !bytes.Contains(admin, []byte("client-key: client.key")) {
		t.Fatalf("the kubeconfig was not changed")
	}
	config, err := RESTConfig(admin, Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if config.CertFile != filepath.Join(dir, "client.crt") || config.KeyFile != filepath.Join(dir, "client.key") || len(config.KeyData) > 0 {
		t.Errorf("certificate %q, key %q", config.CertFile, config.KeyFile)
	}
	_, err = RESTConfig(admin, Options{Dir: dir, Read: func(name string) ([]byte, error) {
		return nil, &os.PathError{Op: "open", Path: name, Err: os.ErrNotExist}
	}})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("with a function to read files: %v", err)
	}
}

func TestRESTConfigRefusesWhatNewRefuses(t *testing.T) {
	_, files := machine(t)
	insecure := bytes.Replace(files["/etc/kubernetes/admin.conf"], []byte("    server:"), []byte("    insecure-skip-tls-verify: true\n    server:"), 1)
	if _, err := RESTConfig(insecure, Options{}); err == nil {
		t.Error("a server that is not verified was taken")
	}
}

func TestInClusterNeedsAPod(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	if _, err := InClusterRESTConfig(Options{}); !errors.Is(err, ErrNotInCluster) {
		t.Errorf("got %v", err)
	}
}

func TestRESTConfigReachesTheServer(t *testing.T) {
	_, files := machine(t)
	url := serve(t, files, func(w http.ResponseWriter, r *http.Request) {
		if len(r.TLS.PeerCertificates) == 0 {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	config, err := RESTConfig(files["/etc/kubernetes/admin.conf"], Options{Server: url})
	if err != nil {
		t.Fatal(err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseIdleConnections()
	response, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	if _ = response.Body.Close(); response.StatusCode != http.StatusOK {
		t.Errorf("answer %s", response.Status)
	}
}
