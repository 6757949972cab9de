package inventory

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/kubeconfig"
	"github.com/kubepki/kubepki/layout"
)

func TestResidualTimeIsWrittenAsKubeadmDoes(t *testing.T) {
	t.Parallel()
	day := 24 * time.Hour
	for _, c := range []struct {
		left time.Duration
		want string
	}{
		{-year, "<invalid>"}, {-2 * time.Second, "<invalid>"}, {-1999 * time.Millisecond, "0s"}, {-time.Second, "0s"}, {0, "0s"},
		{999 * time.Millisecond, "0s"}, {119 * time.Second, "119s"}, {2 * time.Minute, "2m"}, {2*time.Minute + time.Second, "2m1s"},
		{10*time.Minute - time.Nanosecond, "9m59s"}, {10*time.Minute + 59*time.Second, "10m"}, {180*time.Minute - time.Second, "179m"},
		{3 * time.Hour, "3h"}, {3*time.Hour + time.Minute, "3h1m"}, {8*time.Hour - time.Second, "7h59m"},
		{8*time.Hour + 59*time.Minute, "8h"},
		{48*time.Hour - time.Second, "47h"}, {2 * day, "2d"}, {2*day + time.Hour, "2d1h"}, {8*day - time.Second, "7d23h"},
		{8*day + 23*time.Hour, "8d"},
		{2*year - time.Second, "729d"}, {2 * year, "2y"}, {2*year + day, "2y1d"}, {8*year - time.Second, "7y364d"}, {8*year + 364*day, "8y"},
	} {
		if got := shortDuration(c.left); got != c.want {
			t.Errorf("%s is written %q, want %q", c.left, got, c.want)
		}
	}
}

// golden ends lines with "$" where kubeadm leaves spaces at their end.
func golden(s string) string { return strings.ReplaceAll(strings.TrimPrefix(s, "\n"), "$\n", "\n") }

func table(t *testing.T, x Expiration) string {
	t.Helper()
	var out strings.Builder
	if err := FormatTable(&out, x); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestExpirationTableIsKubeadms(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	got := table(t, Expirations(m.tree, m.cluster, testNow.Add(time.Second)))
	want := golden(`
CERTIFICATE                EXPIRES                  RESIDUAL TIME   CERTIFICATE AUTHORITY   EXTERNALLY MANAGED
admin.conf                 May 16, 2032 12:00 UTC   364d            ca                      no      $
apiserver                  May 16, 2032 12:00 UTC   364d            ca                      no      $
apiserver-etcd-client      May 16, 2032 12:00 UTC   364d            etcd-ca                 no      $
apiserver-kubelet-client   May 16, 2032 12:00 UTC   364d            ca                      no      $
controller-manager.conf    May 16, 2032 12:00 UTC   364d            ca                      no      $
etcd-healthcheck-client    May 16, 2032 12:00 UTC   364d            etcd-ca                 no      $
etcd-peer                  May 16, 2032 12:00 UTC   364d            etcd-ca                 no      $
etcd-server                May 16, 2032 12:00 UTC   364d            etcd-ca                 no      $
front-proxy-client         May 16, 2032 12:00 UTC   364d            front-proxy-ca          no      $
scheduler.conf             May 16, 2032 12:00 UTC   364d            ca                      no      $
super-admin.conf           May 16, 2032 12:00 UTC   364d            ca                      no      $

CERTIFICATE AUTHORITY   EXPIRES                  RESIDUAL TIME   EXTERNALLY MANAGED
ca                      May 14, 2041 12:00 UTC   9y              no      $
etcd-ca                 May 14, 2041 12:00 UTC   9y              no      $
front-proxy-ca          May 14, 2041 12:00 UTC   9y              no      $
`)
	if got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestExpirationTableWithMissingBrokenExpiredAndForeignFiles(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.remove(m.certPath("scheduler.conf"), m.certPath("front-proxy-client"), m.certPath(layout.NameFrontProxyCA), m.keyPath(layout.NameCA))
	m.write(m.certPath("controller-manager.conf"), []byte("{"), 0o600)
	m.write(m.certPath(layout.NameEtcdPeer), []byte("no certificate"), 0o644)
	m.renew(layout.NameEtcdServer, func(o *order) { o.validity.NotAfter = testNow.Add(-time.Hour) })
	x := Expirations(m.tree, m.cluster, testNow)
	want := golden(`
CERTIFICATE                         EXPIRES                  RESIDUAL TIME   CERTIFICATE AUTHORITY   EXTERNALLY MANAGED
admin.conf                          May 16, 2032 12:00 UTC   365d            ca                      yes     $
apiserver                           May 16, 2032 12:00 UTC   365d            ca                      yes     $
apiserver-etcd-client               May 16, 2032 12:00 UTC   365d            etcd-ca                 no      $
apiserver-kubelet-client            May 16, 2032 12:00 UTC   365d            ca                      yes     $
!INVALID! controller-manager.conf                                                                    $
etcd-healthcheck-client             May 16, 2032 12:00 UTC   365d            etcd-ca                 no      $
!INVALID! etcd-peer                                                                                  $
etcd-server                         May 17, 2031 11:00 UTC   <invalid>       etcd-ca                 no      $
!MISSING! front-proxy-client                                                                         $
!MISSING! scheduler.conf                                                                             $
super-admin.conf                    May 16, 2032 12:00 UTC   365d            ca                      yes     $

CERTIFICATE AUTHORITY      EXPIRES                  RESIDUAL TIME   EXTERNALLY MANAGED
ca                         May 14, 2041 12:00 UTC   10y             yes     $
etcd-ca                    May 14, 2041 12:00 UTC   10y             no      $
!MISSING! front-proxy-ca                                            $
`)
	if got := table(t, x); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	problems := strings.Join(x.Problems(), "\n")
	for _, name := range []string{"controller-manager.conf", "etcd/peer.crt"} {
		if !strings.Contains(problems, name) {
			t.Errorf("no problem tells of %s: %q", name, problems)
		}
	}
	if n := len(x.Problems()); n != 2 {
		t.Errorf("%d problems, want 2: %q", n, problems)
	}
}

func TestExpirationFollowsAKubeconfigToItsCertificateFile(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	spec := m.spec(layout.NameAdmin)
	m.write("/etc/kubernetes/admin.crt", spec.ClientCertificate, 0o644)
	spec.ClientCertificate, spec.ClientKey = nil, nil
	data := trimUser(kubeconfig.New(spec))
	m.write(m.certPath(layout.NameAdmin), append(data, "  user:\n    client-certificate: admin.crt\n"...), 0o600)
	row := Expirations(m.tree, m.cluster, testNow).Certificates[0]
	want := ExpirationRow{Name: "admin.conf", ExpirationDate: testNow.Add(year), Residual: year, CAName: "ca"}
	if row != want {
		t.Errorf("row %+v, want %+v", row, want)
	}
}

func TestExpirationNamesAKubeconfigWithoutClientCertificate(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	spec := m.spec(layout.NameAdmin)
	spec.ClientCertificate, spec.ClientKey, spec.Token = nil, nil, "t"
	m.putKubeconfig(layout.NameAdmin, spec)
	row := Expirations(m.tree, m.cluster, testNow).Certificates[0]
	if row.Reason != KubeconfigNoClientCertificate || row.Problem == "" || row.Missing {
		t.Errorf("row %+v", row)
	}
}

func TestExpirationTakesAFolderForMissing(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.remove(m.certPath(layout.NameAPIServer))
	if err := os.Mkdir(m.tree.Path(m.certPath(layout.NameAPIServer)), 0o755); err != nil {
		t.Fatal(err)
	}
	if row := Expirations(m.tree, m.cluster, testNow).Certificates[1]; !row.Missing || row.Problem != "" {
		t.Errorf("row %+v", row)
	}
}

func TestExpirationLeavesOutAnExternalEtcd(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.cluster.ExternalEtcd = true
	x := Expirations(m.tree, m.cluster, testNow)
	if len(x.Certificates) != 7 || len(x.Authorities) != 2 {
		t.Errorf("%d certificates and %d authorities, want 7 and 2", len(x.Certificates), len(x.Authorities))
	}
}

func TestExpirationInfoHasKubeadmsFieldsInKubeadmsOrder(t *testing.T) {
	t.Parallel()
	x := Expiration{
		Certificates: []ExpirationRow{
			{Name: "apiserver", ExpirationDate: testNow.Add(90 * time.Second), Residual: 90*time.Second + 999*time.Millisecond, CAName: "ca"},
			{Name: "etcd-peer", Problem: "broken", Reason: Unreadable},
		},
		Authorities: []ExpirationRow{{Name: "ca", Missing: true, Reason: Missing}},
	}
	got, err := json.MarshalIndent(x.Info(), "", "    ")
	if err != nil {
		t.Fatal(err)
	}
	want := `{
    "kind": "CertificateExpirationInfo",
    "apiVersion": "output.kubeadm.k8s.io/v1alpha3",
    "certificates": [
        {
            "name": "apiserver",
            "expirationDate": "2031-05-17T12:01:30Z",
            "residualTime": 90,
            "externallyManaged": false,
            "caName": "ca",
            "missing": false
        },
        {
            "name": "etcd-peer",
            "expirationDate": null,
            "residualTime": 0,
            "externallyManaged": false,
            "missing": false,
            "problem": "broken"
        }
    ],
    "certificateAuthorities": [
        {
            "name": "ca",
            "expirationDate": null,
            "residualTime": 0,
            "externallyManaged": false,
            "missing": true
        }
    ]
}`
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
