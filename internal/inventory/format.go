package inventory

import (
	"bufio"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// Writer prints items as they come and holds none of them, so that a scan of any size can
// be printed. Close must be called once, after the last item.
type Writer interface {
	Write(it Item) error
	Close(s Summary) error
}

// Print writes a report's items and its summary.
func (r *Report) Print(w Writer) error {
	for _, it := range r.Items {
		if err := w.Write(it); err != nil {
			return err
		}
	}
	return w.Close(r.Summary)
}

// tableGroup is after how many rows a table computes its column widths anew, which bounds
// what it holds back.
const tableGroup = 500

type tableWriter struct {
	out  *tabwriter.Writer
	now  time.Time
	wide bool
	rows int
}

// NewTableWriter prints a table for people, wide with more columns. Columns are aligned in
// groups of 500 rows. What a terminal would not print as a character becomes "?".
func NewTableWriter(w io.Writer, now time.Time, wide bool) Writer {
	return &tableWriter{out: tabwriter.NewWriter(w, 0, 8, 3, ' ', 0), now: now, wide: wide}
}

func (t *tableWriter) Write(it Item) error {
	if t.rows%tableGroup == 0 {
		if err := t.header(); err != nil {
			return err
		}
	}
	t.rows++
	expires, left := "-", "-"
	if !it.NotAfter.IsZero() {
		expires, left = it.NotAfter.UTC().Format("2006-01-02 15:04 UTC"), shortDuration(it.NotAfter.Sub(t.now))
	}
	cells := []string{itemName(it), string(it.Kind), expires, left, dash(it.SignedBy)}
	if t.wide {
		names := strings.Join(append(append([]string{}, it.DNSNames...), it.IPAddresses...), ",")
		cells = append(cells, dash(it.Subject), dash(it.Algorithm), dash(it.Serial), dash(names), it.Path)
	}
	cells = append(cells, dash(reasons(it)))
	for i := range cells {
		cells[i] = printable(cells[i])
	}
	_, err := fmt.Fprintln(t.out, strings.Join(cells, "\t"))
	return err
}

func (t *tableWriter) header() error {
	if err := t.out.Flush(); err != nil || t.rows > 0 {
		return err
	}
	titles := "NAME\tKIND\tEXPIRES\tRESIDUAL\tSIGNED BY"
	if t.wide {
		titles += "\tSUBJECT\tKEY\tSERIAL\tNAMES\tPATH"
	}
	_, err := fmt.Fprintln(t.out, titles+"\tFINDINGS")
	return err
}

func (t *tableWriter) Close(Summary) error { return t.out.Flush() }

// itemName tells the items of one file apart.
func itemName(it Item) string {
	name := it.Name
	if it.Part != "" {
		name += " " + it.Part
	}
	if it.Index > 0 {
		name += " #" + strconv.Itoa(it.Index+1)
	}
	return name
}

func reasons(it Item) string {
	words := make([]string, len(it.Findings))
	for i, f := range it.Findings {
		words[i] = string(f.Reason)
	}
	return strings.Join(words, ",")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// printable keeps names from files from moving the cursor or breaking lines.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// place names the item and, where the name does not say it, its file.
func (it Item) place() string {
	if it.Path == "" || it.Path == it.Name {
		return itemName(it)
	}
	return itemName(it) + " (" + it.Path + ")"
}

// Explain writes one line for each finding of at least the given severity.
func (r *Report) Explain(w io.Writer, least Severity) error {
	out := bufio.NewWriter(w)
	for _, it := range r.Items {
		for _, f := range it.Findings {
			if f.Severity.rank() >= least.rank() {
				fmt.Fprintf(out, "%-8s  %s: %s: %s\n", f.Severity, printable(it.place()), f.Reason, printable(f.Message))
			}
		}
	}
	return out.Flush()
}

type csvWriter struct {
	out    *csv.Writer
	now    time.Time
	header bool
}

// NewCSVWriter prints comma-separated values (RFC 4180) under a header line. Lists within
// a field are separated by spaces, messages by "; "; columns may only be added at the end.
func NewCSVWriter(w io.Writer, now time.Time) Writer {
	return &csvWriter{out: csv.NewWriter(w), now: now}
}

var csvHeader = []string{
	"name", "kind", "path", "certificate_file", "part", "index", "subject", "issuer", "serial", "not_before", "not_after",
	"days_left", "algorithm", "signature_algorithm", "dns_names", "ip_addresses", "uris", "email_addresses", "usages",
	"is_ca", "fingerprint", "public_key", "signed_by", "externally_managed", "severity", "reasons", "messages",
}

func (c *csvWriter) Write(it Item) error {
	if err := c.start(); err != nil {
		return err
	}
	var notBefore, notAfter, left string
	if !it.NotAfter.IsZero() {
		notBefore, notAfter = it.NotBefore.UTC().Format(time.RFC3339), it.NotAfter.UTC().Format(time.RFC3339)
		left = strconv.Itoa(daysLeft(it.NotAfter, c.now))
	}
	messages := make([]string, len(it.Findings))
	for i, f := range it.Findings {
		messages[i] = f.Message
	}
	usages := make([]string, len(it.Usages))
	for i, u := range it.Usages {
		usages[i] = strings.ReplaceAll(u, " ", "-")
	}
	list := func(s []string) string { return strings.Join(s, " ") }
	return c.out.Write([]string{
		it.Name, string(it.Kind), it.Path, it.CertificateFile, it.Part, strconv.Itoa(it.Index), it.Subject, it.Issuer, it.Serial,
		notBefore, notAfter, left, it.Algorithm, it.SignatureAlgorithm, list(it.DNSNames), list(it.IPAddresses), list(it.URIs),
		list(it.EmailAddresses), list(usages), strconv.FormatBool(it.IsCA), it.Fingerprint, it.PublicKey, it.SignedBy,
		strconv.FormatBool(it.ExternallyManaged), string(it.Severity()), reasons(it), strings.Join(messages, "; "),
	})
}

func (c *csvWriter) start() error {
	if c.header {
		return nil
	}
	c.header = true
	return c.out.Write(csvHeader)
}

func (c *csvWriter) Close(Summary) error {
	if err := c.start(); err != nil {
		return err
	}
	c.out.Flush()
	return c.out.Error()
}

// daysLeft counts whole days, rounded down, so that it is negative as soon as a
// certificate has expired.
func daysLeft(notAfter, now time.Time) int {
	const day = 24 * time.Hour
	left := notAfter.Sub(now)
	days := int(left / day)
	if left < 0 && left%day != 0 {
		days--
	}
	return days
}

type jsonWriter struct {
	out   *bufio.Writer
	enc   *json.Encoder
	now   time.Time
	lines bool
	began bool
}

// NewJSONWriter prints one JSON document of schema SchemaVersion: the fields of a Report,
// with the summary last.
func NewJSONWriter(w io.Writer, now time.Time) Writer { return newJSONWriter(w, now, false) }

// NewJSONLinesWriter prints each Item as a JSON document on a line of its own, without a
// summary.
func NewJSONLinesWriter(w io.Writer) Writer { return newJSONWriter(w, time.Time{}, true) }

func newJSONWriter(w io.Writer, now time.Time, lines bool) *jsonWriter {
	out := bufio.NewWriterSize(w, 64<<10)
	enc := json.NewEncoder(out)
	enc.SetEscapeHTML(false)
	return &jsonWriter{out: out, enc: enc, now: now, lines: lines}
}

func (j *jsonWriter) Write(it Item) error {
	if !j.lines {
		separator := ","
		if !j.began {
			separator = j.opening()
		}
		if _, err := j.out.WriteString(separator); err != nil {
			return err
		}
	}
	j.began = true
	return j.enc.Encode(it)
}

func (j *jsonWriter) opening() string {
	return fmt.Sprintf("{\"schemaVersion\":%q,\"generatedAt\":%q,\"items\":[\n", SchemaVersion, j.now.UTC().Format(time.RFC3339Nano))
}

func (j *jsonWriter) Close(s Summary) error {
	if j.lines {
		return j.out.Flush()
	}
	if !j.began {
		_, _ = j.out.WriteString(j.opening()) // Flush reports what goes wrong
	}
	summary, err := json.Marshal(s)
	if err != nil {
		return err
	}
	fmt.Fprintf(j.out, "],\"summary\":%s}\n", summary)
	return j.out.Flush()
}
