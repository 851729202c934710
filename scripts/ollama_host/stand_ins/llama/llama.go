// Package llama stands in for llama.cpp, which is not in this build.
package llama

import "errors"

var errAbsent = errors.New("this build of Ollama has no llama.cpp: it runs MLX models only")

type Model struct{}

type ModelParams struct {
	VocabOnly bool
}

func LoadModelFromFile(path string, params ModelParams) (*Model, error) {
	return nil, errAbsent
}

func FreeModel(model *Model) {}

func (model *Model) Tokenize(text string, addSpecial, parseSpecial bool) ([]int, error) {
	return nil, errAbsent
}

func (model *Model) TokenToPiece(token int) string { return "" }

func SchemaToGrammar(schema []byte) []byte { return nil }
