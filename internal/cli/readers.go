package cli

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/component"
)

// readersSchema names the form of ReaderList.
const readersSchema = "kubepki.io/readers/v1"

// ReaderList is what "certs readers -o json" prints.
type ReaderList struct {
	SchemaVersion string                `json:"schemaVersion"`
	Components    []component.Component `json:"components"`
	Readers       []component.Reader    `json:"readers"`
	Problems      []component.Problem   `json:"problems,omitempty"`
}

const readersLong = `List which program of this node reads which certificate, key or CA file, and how a changed file
gets into it. Everything comes from the node's own files: the flags in static pod manifests and the
kubelet's configuration. How a file is read follows from the program's version:

  reloads (1m)    it notices the change itself, within that time
  each handshake  it reads the file for every new TLS connection
  restart         it reads the file when it starts
  rotates         it renews the file itself

Static pods that kubepki does not know are listed with the files that they mount. The exit code is 3
when a manifest cannot be understood: nothing can then be said about what it starts.`

func (a *app) readersCommand() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:     "readers",
		Short:   "List who reads which file",
		Long:    readersLong,
		Example: "  kubepki certs readers\n  kubepki certs readers -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.readers(cmd.Context(), &s)
		},
	}
	s.bindTree(a, cmd)
	formats(cmd, "text", structured)
	return cmd
}

func (a *app) readers(ctx context.Context, s *settings) error {
	config, err := s.load()
	if err != nil {
		return err
	}
	t, err := a.open(ctx, config.Cluster, toRead)
	if err != nil {
		return err
	}
	defer t.Close()
	n := a.node(t, "")
	if a.isText() {
		err = a.printReaders(n.set.Readers())
	} else {
		err = a.printStructured(&ReaderList{readersSchema, orEmpty(n.set.Components), orEmpty(n.set.Readers()), n.set.Problems})
	}
	if err != nil {
		return err
	}
	if len(n.set.Problems) > 0 {
		return &attentionError{n.problems()}
	}
	return nil
}

func orEmpty[T any](list []T) []T { return append([]T{}, list...) }

func (a *app) printReaders(readers []component.Reader) error {
	if len(readers) == 0 {
		a.notef("no static pod manifest and no kubelet here: nobody reads anything")
		return nil
	}
	w := tabwriter.NewWriter(a.Stdout, 10, 0, 3, ' ', 0)
	fmt.Fprintln(w, "READER\tFLAG\tFILE\tHOW\tWHERE")
	for _, r := range readers {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Component, dash(r.Flag), r.File, reloadText(r.Reload), dash(where(r)))
	}
	return w.Flush()
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// where tells the ports on which a certificate can be seen, or to which it is shown.
func where(r component.Reader) string {
	var places []string
	for _, a := range r.ServedAt {
		places = append(places, "serves "+a.HostPort())
	}
	for _, a := range r.Uses {
		places = append(places, "uses "+a.HostPort())
	}
	return strings.Join(places, ", ")
}

// reloadText says in words how a program takes a new file.
func reloadText(r component.Reload) string {
	switch r.How {
	case component.Watch:
		return fmt.Sprintf("reloads (%s)", shortDuration(r.Within))
	case component.Handshake:
		return "each handshake"
	case component.Rotate:
		return "rotates"
	}
	return "restart"
}

// shortDuration writes whole minutes and seconds without the zeros of time.Duration.
func shortDuration(d time.Duration) string {
	if d >= time.Minute && d%time.Minute == 0 {
		return fmt.Sprintf("%dm", d/time.Minute)
	}
	return d.Round(time.Second).String()
}
