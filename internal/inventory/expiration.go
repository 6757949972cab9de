package inventory

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/kubepki/kubepki/layout"
	"github.com/kubepki/kubepki/pki"
)

// Expiration is the report of "certs check-expiration": leaves and kubeconfigs, then
// authorities, each sorted by name. As in kubeadm, only the first certificate of a file
// counts, kubelet.conf is left out because the kubelet renews what it points to, and an
// external etcd leaves out all that belongs to etcd.
type Expiration struct {
	Certificates, Authorities []ExpirationRow
}

// ExpirationRow is one certificate of the report.
type ExpirationRow struct {
	Name              string
	ExpirationDate    time.Time     // zero when Missing or when there is a Problem
	Residual          time.Duration // negative when expired
	ExternallyManaged bool          // its CA's key is not on this machine
	CAName            string        // empty for CAs and where ExpirationDate is
	Missing           bool          // there is no such file
	Problem           string        // why a file that is there could not be read
	Reason            Reason        // the Problem in one word; Missing, or "" when all is well
}

// Expirations reads the certificates of a cluster. Where kubeadm ends at the first file
// that is broken, this reports it in its row and goes on.
func Expirations(files Files, c layout.Cluster, now time.Time) Expiration {
	var report Expiration
	external := map[string]bool{}
	for _, e := range sortedEntries(c, layout.CA) {
		row, isCA := expirationRow(files, c, e, now)
		row.ExternallyManaged = isCA && absent(files, c.KeyPath(e))
		external[e.Name] = row.ExternallyManaged
		report.Authorities = append(report.Authorities, row)
	}
	for _, e := range sortedEntries(c, layout.Leaf, layout.Kubeconfig) {
		if e.Name == layout.NameKubelet {
			continue
		}
		row, _ := expirationRow(files, c, e, now)
		if row.Reason == "" {
			row.CAName, row.ExternallyManaged = e.Issuer, external[e.Issuer]
		}
		report.Certificates = append(report.Certificates, row)
	}
	return report
}

// sortedEntries returns the entries of these kinds that the cluster has, by name.
func sortedEntries(c layout.Cluster, kinds ...layout.Kind) []layout.Entry {
	entries := slices.DeleteFunc(layout.OfKind(kinds...), func(e layout.Entry) bool { return c.ExternalEtcd && e.Etcd() })
	slices.SortFunc(entries, func(a, b layout.Entry) int { return strings.Compare(a.Name, b.Name) })
	return entries
}

func expirationRow(files Files, c layout.Cluster, e layout.Entry, now time.Time) (row ExpirationRow, isCA bool) {
	row.Name = e.Name
	path := c.CertificatePath(e)
	fail := func(reason Reason, err error) (ExpirationRow, bool) {
		row.Reason, row.Problem = reason, err.Error()
		return row, false
	}
	data, err := files.ReadFile(path)
	if err != nil && (errors.Is(err, fs.ErrNotExist) || isFolder(files, path)) {
		row.Missing, row.Reason = true, Missing
		return row, false
	}
	if err != nil {
		return fail(Unreadable, err)
	}
	if e.Kind == layout.Kubeconfig {
		login, err := readLogin(files, path, data)
		if err != nil {
			return fail(Unreadable, err)
		}
		if login.cert == nil {
			return fail(KubeconfigNoClientCertificate, fmt.Errorf("%s holds no client certificate", path))
		}
		data, path = login.cert, login.certFile
	}
	certs, err := pki.ParseCertificates(data)
	if err != nil {
		return fail(Unreadable, fmt.Errorf("read certificate %s: %w", path, err))
	}
	row.ExpirationDate = certs[0].NotAfter
	row.Residual = certs[0].NotAfter.Sub(now)
	return row, pki.CheckCA(certs[0]) == nil
}

func isFolder(files Files, name string) bool {
	info, err := os.Stat(files.Path(name))
	return err == nil && info.IsDir()
}

// absent says whether a file is certainly not there.
func absent(files Files, name string) bool {
	_, err := os.Stat(files.Path(name))
	return errors.Is(err, fs.ErrNotExist)
}

// Problems returns the sentences about the rows that could not be read.
func (x Expiration) Problems() []string {
	var problems []string
	for _, row := range slices.Concat(x.Certificates, x.Authorities) {
		if row.Problem != "" {
			problems = append(problems, row.Problem)
		}
	}
	return problems
}

// ExpirationInfo is the report as kubeadm prints it in JSON and YAML: kind
// CertificateExpirationInfo of output.kubeadm.k8s.io/v1alpha3, with the fields in
// kubeadm's order.
type ExpirationInfo struct {
	Kind                   string              `json:"kind"`
	APIVersion             string              `json:"apiVersion"`
	Certificates           []ExpirationInfoRow `json:"certificates"`
	CertificateAuthorities []ExpirationInfoRow `json:"certificateAuthorities"`
}

// ExpirationInfoRow is one certificate of an ExpirationInfo. Problem is the one field that
// kubeadm doesn't have; it is left out of sound rows.
type ExpirationInfoRow struct {
	Name              string     `json:"name"`
	ExpirationDate    *time.Time `json:"expirationDate"` // null when there is none
	ResidualTime      int64      `json:"residualTime"`   // whole seconds, negative when expired
	ExternallyManaged bool       `json:"externallyManaged"`
	CAName            string     `json:"caName,omitempty"`
	Missing           bool       `json:"missing"`
	Problem           string     `json:"problem,omitempty"`
}

// Info returns the report in kubeadm's form.
func (x Expiration) Info() ExpirationInfo {
	return ExpirationInfo{
		Kind:                   "CertificateExpirationInfo",
		APIVersion:             "output.kubeadm.k8s.io/v1alpha3",
		Certificates:           infoRows(x.Certificates),
		CertificateAuthorities: infoRows(x.Authorities),
	}
}

func infoRows(rows []ExpirationRow) []ExpirationInfoRow {
	out := make([]ExpirationInfoRow, 0, len(rows))
	for _, row := range rows {
		info := ExpirationInfoRow{
			Name: row.Name, ResidualTime: int64(row.Residual / time.Second), ExternallyManaged: row.ExternallyManaged,
			CAName: row.CAName, Missing: row.Missing, Problem: row.Problem,
		}
		if !row.ExpirationDate.IsZero() {
			date := row.ExpirationDate.UTC().Truncate(time.Second)
			info.ExpirationDate = &date
		}
		out = append(out, info)
	}
	return out
}

// FormatTable writes the report as kubeadm's text tables, byte for byte. A row with a
// Problem looks like a missing one, with !INVALID! in the place of !MISSING!.
func FormatTable(w io.Writer, x Expiration) error {
	t := tabwriter.NewWriter(w, 10, 4, 3, ' ', 0)
	fmt.Fprintln(t, "CERTIFICATE\tEXPIRES\tRESIDUAL TIME\tCERTIFICATE AUTHORITY\tEXTERNALLY MANAGED")
	for _, row := range x.Certificates {
		if mark := row.mark(); mark != "" {
			fmt.Fprintf(t, "%s %s\t\t\t\t\n", mark, row.Name)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%-8s\n", row.Name, row.expires(), shortDuration(row.Residual), row.CAName, row.external())
	}
	fmt.Fprintln(t)
	fmt.Fprintln(t, "CERTIFICATE AUTHORITY\tEXPIRES\tRESIDUAL TIME\tEXTERNALLY MANAGED")
	for _, row := range x.Authorities {
		if mark := row.mark(); mark != "" {
			fmt.Fprintf(t, "%s %s\t\t\t\n", mark, row.Name)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%-8s\n", row.Name, row.expires(), shortDuration(row.Residual), row.external())
	}
	return t.Flush() // tabwriter holds everything back until here, errors of w too
}

func (row ExpirationRow) mark() string {
	switch {
	case row.Missing:
		return "!MISSING!"
	case row.Problem != "":
		return "!INVALID!"
	}
	return ""
}

func (row ExpirationRow) expires() string {
	return row.ExpirationDate.UTC().Format("Jan 02, 2006 15:04 MST")
}

func (row ExpirationRow) external() string {
	if row.ExternallyManaged {
		return "yes"
	}
	return "no"
}
