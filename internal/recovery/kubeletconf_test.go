package recovery_test

import (
	"strings"
	"testing"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/internal/recovery"
)

const store = "/var/lib/kubelet/pki/kubelet-client-current.pem"

// conf is a kubelet.conf that people have worked on, with the two fields of the current user.
func conf(certificate, key string) string {
	return `# Of node w1; ask Ada before you change it.
apiVersion: v1
kind: Config
x-owner: {team: infra}   # ours
contexts:
- name: other
  context: {cluster: c, user: other}
# the one that counts
- name: default
  context:
    cluster: c
    user: default-auth   # since the move
    namespace: kube-system
current-context: default
clusters:
- cluster:
    server: "https://10.0.0.1:6443" # the old balancer
    certificate-authority-data: Y2E=
  name: c
users:
- name: other
  user: {token: t} # of the monitoring
- name: default-auth
  user:
    # made by kubeadm join
    ` + certificate + `   # until May

    # and its key
    ` + key + `
    x-seen: 2024-01-01
# end
`
}

func TestNameStoreChangesTwoFieldsAndNoOtherByte(t *testing.T) {
	t.Parallel()
	want := conf("client-certificate: "+store, "client-key: "+store)
	for name, before := range map[string]string{
		"a certificate inside":      conf("client-certificate-data: Y2VydA==", "client-key-data: a2V5"),
		"one that cannot be read":   conf("client-certificate-data: no base64", "client-key-data: a2V5"),
		"another file":              conf("client-certificate: /old.crt", "client-key: /old.key"),
		"it names the store":        want,
		"a file for one of the two": conf("client-certificate: /old.crt", "client-key-data: a2V5"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := recovery.NameStore([]byte(before), store)
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// Where bytes cannot be changed one by one, the values count: the kubelet has to log in.
func TestNameStoreWritesAnewWhatIsInterwoven(t *testing.T) {
	t.Parallel()
	before := conf("client-certificate-data: &pair Y2VydA==", "client-key-data: *pair")
	got, err := recovery.NameStore([]byte(before), store)
	if err != nil {
		t.Fatal(err)
	}
	file, err := kubeconfig.Parse(got)
	if err != nil {
		t.Fatal(err)
	}
	_, user, err := file.Current()
	if err != nil || user.ClientCertificate != store || user.ClientKey != store || len(user.ClientCertificateData) > 0 || len(user.ClientKeyData) > 0 {
		t.Errorf("%+v, %v", user, err)
	}
	if !strings.Contains(string(got), "x-seen:") || !strings.Contains(string(got), "team: infra") {
		t.Errorf("a field is lost:\n%s", got)
	}
}

func TestNameStoreNeedsTheCurrentUser(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]string{
		"no current context": strings.Replace(conf("a: b", "c: d"), "current-context: default", "", 1),
		"no such user":       strings.Replace(conf("a: b", "c: d"), "user: default-auth", "user: nobody", 1),
		"no YAML":            "{{",
	} {
		if got, err := recovery.NameStore([]byte(before), store); err == nil {
			t.Errorf("%s: became\n%s", name, got)
		}
	}
}
