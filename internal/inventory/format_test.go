package inventory

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/kubepki/kubepki/layout"
)

func sampleReport() *Report {
	r := &Report{SchemaVersion: SchemaVersion, GeneratedAt: testNow, Items: []Item{
		{Name: "ca", Kind: CA, Path: "/etc/kubernetes/pki/ca.crt", Subject: "CN=kubernetes", Issuer: "CN=kubernetes", Serial: "1f",
			NotBefore: testNow, NotAfter: testNow.Add(10 * year), Algorithm: "RSA-2048", SignatureAlgorithm: "SHA256-RSA",
			DNSNames: []string{"kubernetes"}, IsCA: true, Fingerprint: "ab", PublicKey: "cd", SignedBy: "ca"},
		{Name: "admin.conf", Kind: Kubeconfig, Path: "/etc/kubernetes/admin.conf", Part: `user "a"`, Index: 1, Subject: "CN=a\x1b[2J\tb",
			NotBefore: testNow.Add(-year), NotAfter: testNow.Add(-time.Hour), Usages: []string{"client auth"}, SignedBy: "ca",
			Findings: []Finding{{Expired, Critical, "expired, \"gone\""}, {KeyMode, Warning, "mode"}}},
		{Name: "sa", Kind: ServiceAccount, Path: "/etc/kubernetes/pki/sa.key"},
	}}
	for i := range r.Items {
		r.Summary.add(&r.Items[i])
	}
	return r
}

func printed(t *testing.T, make func(*strings.Builder) Writer) string {
	t.Helper()
	var out strings.Builder
	if err := sampleReport().Print(make(&out)); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestTable(t *testing.T) {
	t.Parallel()
	want := strings.TrimPrefix(`
NAME                     KIND             EXPIRES                RESIDUAL    SIGNED BY   FINDINGS
ca                       CA               2041-05-14 12:00 UTC   10y         ca          -
admin.conf user "a" #2   Kubeconfig       2031-05-17 11:00 UTC   <invalid>   ca          Expired,KeyMode
sa                       ServiceAccount   -                      -           -           -
`, "\n")
	if got := printed(t, func(out *strings.Builder) Writer { return NewTableWriter(out, testNow, false) }); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestWideTableKeepsControlCharactersOffTheTerminal(t *testing.T) {
	t.Parallel()
	got := printed(t, func(out *strings.Builder) Writer { return NewTableWriter(out, testNow, true) })
	if strings.ContainsAny(got, "\x1b\t") || !strings.Contains(got, "CN=a?[2J?b") {
		t.Errorf("got\n%s", got)
	}
	for _, column := range []string{"SUBJECT", "SERIAL", "PATH", "CN=kubernetes", "/etc/kubernetes/pki/sa.key"} {
		if !strings.Contains(got, column) {
			t.Errorf("the table lacks %s:\n%s", column, got)
		}
	}
}

func TestExplainSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := sampleReport().Explain(&out, Critical); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "critical  admin.conf user \"a\" #2 (/etc/kubernetes/admin.conf): Expired: expired, \"gone\"\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCSV(t *testing.T) {
	t.Parallel()
	got := printed(t, func(out *strings.Builder) Writer { return NewCSVWriter(out, testNow) })
	records, err := csv.NewReader(strings.NewReader(got)).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	field := func(row int, name string) string {
		for i, title := range records[0] {
			if title == name {
				return records[row][i]
			}
		}
		t.Fatalf("no column %q", name)
		return ""
	}
	for _, c := range []struct {
		row               int
		column, got, want string
	}{
		{1, "name", "", "ca"}, {1, "not_after", "", "2041-05-14T12:00:00Z"}, {1, "days_left", "", "3650"}, {1, "is_ca", "", "true"},
		{2, "days_left", "", "-1"}, {2, "severity", "", "critical"}, {2, "reasons", "", "Expired,KeyMode"},
		{2, "messages", "", `expired, "gone"; mode`}, {2, "usages", "", "client-auth"}, {2, "index", "", "1"},
		{3, "not_after", "", ""}, {3, "days_left", "", ""},
	} {
		if got := field(c.row, c.column); got != c.want {
			t.Errorf("row %d: %s is %q, want %q", c.row, c.column, got, c.want)
		}
	}
}

func TestCSVHeaderIsAContract(t *testing.T) {
	t.Parallel()
	const want = "name,kind,path,certificate_file,part,index,subject,issuer,serial,not_before,not_after,days_left,algorithm," +
		"signature_algorithm,dns_names,ip_addresses,uris,email_addresses,usages,is_ca,fingerprint,public_key,signed_by," +
		"externally_managed,severity,reasons,messages\n"
	var out strings.Builder
	if err := NewCSVWriter(&out, testNow).Close(Summary{}); err != nil {
		t.Fatal(err)
	}
	if out.String() != want {
		t.Errorf("header %q", out.String())
	}
}

func TestJSONDocumentIsTheReport(t *testing.T) {
	t.Parallel()
	got := printed(t, func(out *strings.Builder) Writer { return NewJSONWriter(out, testNow) })
	var r Report
	if err := json.Unmarshal([]byte(got), &r); err != nil {
		t.Fatalf("%v in\n%s", err, got)
	}
	if want := sampleReport(); !reflect.DeepEqual(&r, want) {
		t.Errorf("got %+v, want %+v", r, want)
	}
}

func TestJSONDocumentWithoutItems(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	if err := NewJSONWriter(&out, testNow).Close(Summary{}); err != nil {
		t.Fatal(err)
	}
	const want = `{"schemaVersion":"kubepki.io/inventory/v1","generatedAt":"2031-05-17T12:00:00Z","items":[
],"summary":{"items":0,"certificates":0,"expired":0,"dueSoon":0,"findings":{"info":0,"warning":0,"critical":0}}}
`
	if out.String() != want {
		t.Errorf("got %s", out.String())
	}
}

func TestJSONLines(t *testing.T) {
	t.Parallel()
	got := printed(t, func(out *strings.Builder) Writer { return NewJSONLinesWriter(out) })
	lines := strings.Split(strings.TrimSuffix(got, "\n"), "\n")
	if len(lines) != 3 {
		t.Fatalf("%d lines, want 3:\n%s", len(lines), got)
	}
	const want = `{"name":"sa","kind":"ServiceAccount","path":"/etc/kubernetes/pki/sa.key","index":0,"isCA":false,"externallyManaged":false}`
	if lines[2] != want {
		t.Errorf("got %s, want %s", lines[2], want)
	}
}

type brokenPipe struct{}

var errPipe = errors.New("broken pipe")

func (brokenPipe) Write([]byte) (int, error) { return 0, errPipe }

func TestWritersReportThatTheOutputIsGone(t *testing.T) {
	t.Parallel()
	for name, w := range map[string]Writer{
		"table": NewTableWriter(brokenPipe{}, testNow, false), "csv": NewCSVWriter(brokenPipe{}, testNow),
		"json": NewJSONWriter(brokenPipe{}, testNow), "lines": NewJSONLinesWriter(brokenPipe{}),
	} {
		if err := sampleReport().Print(w); !errors.Is(err, errPipe) {
			t.Errorf("%s: error %v", name, err)
		}
	}
	if err := FormatTable(brokenPipe{}, Expiration{}); !errors.Is(err, errPipe) {
		t.Errorf("kubeadm's table: error %v", err)
	}
}

func TestNagios(t *testing.T) {
	t.Parallel()
	soon := testNow.Add(49 * time.Hour)
	for name, c := range map[string]struct {
		s    Summary
		code int
		line string
	}{
		"all is well": {
			Summary{Certificates: 3, FirstExpiry: testNow.Add(year), Findings: Counts{Info: 1}}, NagiosOK,
			"KUBEPKI OK - 0 expired, 0 due within 30 d, 3 certificates" +
				" | expired=0;;0 due=0;0 critical=0;;0 warning=0;0 min_days=365;30:;0:\n"},
		"one is due": {
			Summary{Certificates: 3, DueSoon: 1, FirstExpiry: soon, Findings: Counts{Warning: 1}}, NagiosWarning,
			"KUBEPKI WARNING - 0 expired, 1 due within 30 d, 3 certificates" +
				" | expired=0;;0 due=1;0 critical=0;;0 warning=1;0 min_days=2;30:;0:\n"},
		"expired ones and a wrong issuer": {
			Summary{Certificates: 3, Expired: 2, FirstExpiry: testNow.Add(-1), Findings: Counts{Critical: 3}}, NagiosCritical,
			"KUBEPKI CRITICAL - 2 expired, 0 due within 30 d, 1 other problem, 3 certificates" +
				" | expired=2;;0 due=0;0 critical=3;;0 warning=0;0 min_days=-1;30:;0:\n"},
		"nothing was found": {
			Summary{}, NagiosUnknown,
			"KUBEPKI UNKNOWN - 0 expired, 0 due within 30 d, 0 certificates | expired=0;;0 due=0;0 critical=0;;0 warning=0;0 min_days=U;30:;0:\n"},
		"everything is missing": {
			Summary{Items: 1, Findings: Counts{Critical: 1}}, NagiosCritical,
			"KUBEPKI CRITICAL - 0 expired, 0 due within 30 d, 1 other problem, 0 certificates | expired=0;;0 due=0;0 critical=1;;0 warning=0;0 min_days=U;30:;0:\n"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out strings.Builder
			code, err := WriteNagios(&out, c.s, testNow, 0)
			if err != nil || code != c.code || out.String() != c.line {
				t.Errorf("code %d, error %v, line %q\nwant %d %q", code, err, out.String(), c.code, c.line)
			}
		})
	}
}

func TestReportHoldsNoKey(t *testing.T) {
	t.Parallel()
	m := newMachine(t)
	m.bootstrapKubelet()
	key := newKey(m)
	m.renew(layout.NameAPIServer, func(o *order) { o.key = key })
	m.write(m.keyPath(layout.NameEtcdServer), keyPEM(m, key), 0o644)                      // a mismatch
	m.write(m.certPath(layout.NameEtcdPeer), keyPEM(m, key), 0o644)                       // a key in the place of a certificate
	m.write(m.certPath("scheduler.conf"), append([]byte("- "), keyPEM(m, key)...), 0o644) // and of a kubeconfig
	text, err := json.Marshal(m.read(nil))
	if err != nil {
		t.Fatal(err)
	}
	noCanary(t, string(text), keyPEM(m, key))
}
