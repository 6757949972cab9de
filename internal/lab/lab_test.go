package lab_test

import (
	"context"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/kubepki/kubepki/internal/lab"
)

func TestFirst(t *testing.T) {
	bin := lab.RequirePrograms(t)
	start := time.Now()
	l, err := lab.Start(context.Background(), lab.Options{
		Dir: t.TempDir(), Bin: bin, Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelInfo})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Log(time.Since(start))
	defer l.Stop()
	if os.Getenv("HOLD") != "" {
		time.Sleep(time.Minute)
	}
}
