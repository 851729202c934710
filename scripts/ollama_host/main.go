// A whole Ollama, except that MLX models are run by mlx-runner.
//
// The host starts its runners by executing itself. This main becomes mlx-runner when it is called as one, with the
// arguments as they came, and is Ollama's own command line otherwise. It is built in a copy of Ollama's module.
//
// It knows nothing about models.
package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/ollama/ollama/cmd"
)

// How long a last line has to be read before this process ends.
const unread = 200 * time.Millisecond

func main() {
	if isMLXRunner(os.Args[1:]) {
		becomeRunner(os.Args[1:])
	}
	cobra.CheckErr(cmd.NewCLI().ExecuteContext(context.Background()))
}

// isMLXRunner: `runner --mlx-engine ...` before v0.34.3, `runner --model ...` since. The other engines of older
// hosts carry a flag of their own, with which they also look for GPUs.
func isMLXRunner(arguments []string) bool {
	if len(arguments) < 2 || arguments[0] != "runner" {
		return false
	}
	engine := arguments[1]
	return engine == "--mlx-engine" || !strings.HasSuffix(engine, "-engine")
}

// becomeRunner does not return. It replaces this process, since a host of v0.34 waits until every process that
// holds the runner's output is gone. The message is what the host shows if there is nothing to become.
func becomeRunner(arguments []string) {
	name := os.Getenv("OLLAMA_MLX_RUNNER")
	if name == "" {
		name = "mlx-runner"
	}
	path, err := exec.LookPath(name)
	if err == nil {
		err = syscall.Exec(path, append([]string{path}, arguments...), os.Environ())
	}
	fmt.Fprintf(os.Stderr, "Error: mlx-runner cannot be started (OLLAMA_MLX_RUNNER=%q): %v\n", name, err)
	time.Sleep(unread) // v0.17.4 shows the last line that it read before it saw the end
	os.Exit(1)
}
