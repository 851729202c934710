// Package runner stands in for the host's own engines, none of which is in this build.
package runner

import "errors"

// Execute is also how the host asks which GPUs its engines see; an error means none.
func Execute(arguments []string) error {
	return errors.New("this build of Ollama runs MLX models only")
}
