package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/kubepki/kubepki/internal/lab"
)

// age is one run of "age".
type age struct{ dir, by, ca string }

func ageCommand() *cobra.Command {
	a := &age{}
	cmd := &cobra.Command{
		Use: "age NODE", Short: "Make the certificates of a node older, as if time had passed", Args: cobra.ExactArgs(1),
		Long: `Make the certificates of a node older: new certificates for the same keys, signed by the same CA, with
both dates moved back. NODE is a node's name, or a folder that plays a machine's /. Running programs
are told nothing; those that watch their files will see it.`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.run(cmd, args[0]) },
	}
	dirFlag(cmd, &a.dir)
	cmd.Flags().StringVar(&a.by, "by", "", "how much older, such as 400d or 36h")
	cmd.Flags().StringVar(&a.ca, "ca", "", "folder of the machine with the CA's key (default: the node itself, or cp1 beside it)")
	_ = cmd.MarkFlagRequired("by")
	return cmd
}

func (a *age) run(cmd *cobra.Command, node string) error {
	by, err := parseSpan(a.by)
	if err != nil {
		return fmt.Errorf("--by: %w", err)
	}
	root := node
	if !strings.ContainsRune(node, filepath.Separator) {
		root = filepath.Join(a.dir, node)
	}
	ca := a.ca
	if ca == "" {
		ca = root
		if !isThere(filepath.Join(root, "etc/kubernetes/pki/ca.key")) {
			ca = filepath.Join(filepath.Dir(filepath.Clean(root)), "cp1")
		}
	}
	return lab.AgeWith(cmd.Context(), root, ca, by, time.Now())
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// parseSpan reads a length of time as Go writes it, with days in front if need be: "400d",
// "1d12h", "36h".
func parseSpan(text string) (time.Duration, error) {
	daysText, rest, hasDays := strings.Cut(text, "d")
	if !hasDays {
		daysText, rest = "0", text
	}
	days, err := strconv.Atoi(daysText)
	if err != nil || days < 0 || days > 100*365 {
		return 0, fmt.Errorf("%q is not a length of time such as 400d or 36h", text)
	}
	span := time.Duration(days) * 24 * time.Hour
	if rest != "" {
		d, err := time.ParseDuration(rest)
		if err != nil || d < 0 {
			return 0, fmt.Errorf("%q is not a length of time such as 400d or 36h", text)
		}
		span += d
	}
	if span <= 0 {
		return 0, fmt.Errorf("%q: want more than nothing", text)
	}
	return span, nil
}

func kubeletCommand() *cobra.Command {
	parent := &cobra.Command{Use: "kubelet", Short: "Start, stop or restart the kubelet of a node"}
	for _, order := range []string{"start", "stop", "restart"} {
		var root string
		cmd := &cobra.Command{
			Use: order, Short: strings.ToUpper(order[:1]) + order[1:] + " the kubelet; containers live on", Args: cobra.NoArgs,
			RunE: func(cmd *cobra.Command, _ []string) error { return lab.Kubelet(cmd.Context(), root, order) },
		}
		cmd.Flags().StringVar(&root, "root", "", "the node's folder")
		_ = cmd.MarkFlagRequired("root")
		parent.AddCommand(cmd)
	}
	return parent
}
