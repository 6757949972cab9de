// Package cli is the command tree of kubepki: flags, text and JSON output, hints and
// exit codes. It is the only place where the other packages meet.
//
// Start with Main. Every command is a function on app that returns an error; Main turns
// errors into lines on stderr and an exit code. Results go to stdout, everything else to
// stderr.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/kubepki/kubepki/internal/atomicfile"
)

// Exit codes of every command.
const (
	ExitOK        = 0
	ExitFailed    = 1
	ExitMisuse    = 2 // unknown command, flag or argument, or an unusable value of one
	ExitAttention = 3 // the command worked and found something that somebody must look at
)

// Env is everything that a run takes from outside.
type Env struct {
	Args           []string // without the program's name
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Now            func() time.Time
	// FS is the way to the disk. Tests put failures into it.
	FS atomicfile.FS
}

// app holds the environment and the global flags of one run.
type app struct {
	Env
	root      string
	output    string
	verbosity int
	noColor   bool
	log       *slog.Logger
}

// Main runs one command and returns the exit code of the process.
func Main(ctx context.Context, env Env) int {
	a := &app{Env: env, log: slog.New(slog.DiscardHandler)}
	root := a.rootCommand()
	root.SetArgs(env.Args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	return a.report(root.ExecuteContext(ctx))
}

// Command returns the command tree alone, for programs that write manual pages from it.
func Command() *cobra.Command {
	a := &app{Env: Env{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard}}
	return a.rootCommand()
}

// report prints what went wrong with a hint, and returns the exit code.
func (a *app) report(err error) int {
	var exit *exitError
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &exit):
		return exit.code
	}
	code := ExitAttention
	for _, e := range flatten(err) {
		var attention *attentionError
		var misuse *misuseError
		switch {
		case errors.As(e, &attention) && attention.err == nil:
			continue // the output has said it
		case errors.As(e, &attention):
		case errors.As(e, &misuse):
			code = ExitMisuse
		default:
			code = ExitFailed
		}
		fmt.Fprintf(a.Stderr, "%s %v\n", a.paint(a.Stderr, red, "error:"), e)
	}
	if hint := a.hintFor(err); hint != "" {
		fmt.Fprintf(a.Stderr, "hint: %s\n", hint)
	}
	return code
}

// flatten lists the errors that errors.Join has put together, each for a line of its own.
func flatten(err error) []error {
	joined, ok := err.(interface{ Unwrap() []error })
	if !ok {
		return []error{err}
	}
	var all []error
	for _, e := range joined.Unwrap() {
		all = append(all, flatten(e)...)
	}
	return all
}

// misuseError says that the command line is wrong.
type misuseError struct{ err error }

func (e *misuseError) Error() string { return e.err.Error() }
func (e *misuseError) Unwrap() error { return e.err }

func misuse(format string, args ...any) error { return &misuseError{fmt.Errorf(format, args...)} }

// attentionError ends a command that did its work with ExitAttention. err may be nil
// when the output has said everything.
type attentionError struct{ err error }

func (e *attentionError) Error() string {
	if e.err == nil {
		return "something needs attention"
	}
	return e.err.Error()
}
func (e *attentionError) Unwrap() error { return e.err }

// exitError ends a command with the exit code of another protocol. The output has said
// everything.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// warnf tells the user about something that does not stop the work.
func (a *app) warnf(format string, args ...any) {
	fmt.Fprintf(a.Stderr, "%s %s\n", a.paint(a.Stderr, yellow, "warning:"), fmt.Sprintf(format, args...))
}

// notef tells the user on stderr what was done beside the result.
func (a *app) notef(format string, args ...any) {
	fmt.Fprintf(a.Stderr, "note: %s\n", fmt.Sprintf(format, args...))
}

type colour string

const (
	red    colour = "31"
	yellow colour = "33"
	green  colour = "32"
)

// paint colours text when w is a terminal and colours are wanted (see no-color.org).
func (a *app) paint(w io.Writer, c colour, text string) string {
	f, ok := w.(*os.File)
	if a.noColor || os.Getenv("NO_COLOR") != "" || !ok || !term.IsTerminal(int(f.Fd())) {
		return text
	}
	return "\x1b[" + string(c) + "m" + text + "\x1b[0m"
}

func (a *app) rootCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kubepki",
		Short: "Keeps the certificates of Kubernetes clusters alive",
		Long: `kubepki makes the certificates of a kubeadm cluster, shows when they end, renews them and
signs them, offline and without kubeadm. Its commands and flags are those of kubeadm.

Exit codes: 0 fine, 1 failed, 2 misuse, 3 something needs attention.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			return a.start(cmd)
		},
	}
	flags := cmd.PersistentFlags()
	flags.StringVar(&a.root, "root", "", "put `DIR` in front of every absolute path, to work on another machine's files")
	flags.StringVarP(&a.output, "output", "o", "", "output `format`; each command names those that it has")
	flags.IntVarP(&a.verbosity, "v", "v", 0, "how much to log to stderr: 0 nothing, 1 decisions, 5 every file")
	flags.BoolVar(&a.noColor, "no-color", false, "never colour the output")
	// kubeadm calls it --rootfs.
	flags.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "rootfs" {
			name = "root"
		}
		return pflag.NormalizedName(name)
	})
	_ = cmd.RegisterFlagCompletionFunc("output", completeFormats)
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &misuseError{err} })
	cmd.AddCommand(
		a.initCommand(),
		a.certsCommand(),
		a.recoverCommand(),
		a.kubeletCommand(),
		a.kubeconfigCommand(),
		a.inventoryCommand(),
		a.csrCommand(),
		a.controllerCommand(),
		a.rotationCommand(),
		a.backupsCommand(),
		a.rollbackCommand(),
		a.versionCommand(),
	)
	makeStrict(cmd)
	return cmd
}

// start sets up what the global flags ask for.
func (a *app) start(cmd *cobra.Command) error {
	if a.verbosity > 0 {
		level := slog.LevelInfo
		if a.verbosity >= 5 {
			level = slog.LevelDebug
		}
		a.log = slog.New(slog.NewTextHandler(a.Stderr, &slog.HandlerOptions{Level: level}))
	}
	switch known := cmd.Annotations[annotationFormats]; {
	case a.output == "" || hasFormat(cmd, a.output):
	case known == "":
		return misuse("%s has no --output formats", cmd.CommandPath())
	default:
		return misuse("--output %q: want one of %s", a.output, strings.Join(strings.Fields(known), ", "))
	}
	return nil
}

// makeStrict lets cobra's complaints about arguments end with ExitMisuse, and a command
// that only holds others ask for one of them.
func makeStrict(cmd *cobra.Command) {
	if cmd.HasSubCommands() && cmd.RunE == nil {
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return misuse("unknown command %q for %q%s", args[0], cmd.CommandPath(), suggestion(cmd, args[0]))
			}
			_ = cmd.Help()
			return &misuseError{errors.New("a command is missing")}
		}
	} else if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &misuseError{err}
			}
			return nil
		}
	}
	for _, sub := range cmd.Commands() {
		makeStrict(sub)
	}
}

func suggestion(cmd *cobra.Command, word string) string {
	cmd.SuggestionsMinimumDistance = 2
	if names := cmd.SuggestionsFor(word); len(names) > 0 {
		return fmt.Sprintf("; did you mean %q?", names[0])
	}
	return ""
}
