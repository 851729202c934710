// Package ggml stands in for GGML, which is not in this build. `ollama create --quantize` of a GGUF file needs it.
package ggml

import fsggml "github.com/ollama/ollama/fs/ggml"

const absent = "this build of Ollama has no GGML: it cannot quantize GGUF files"

func ConvertToF32(data []byte, kind uint32, count uint64) []float32 { panic(absent) }

func Quantize(kind fsggml.TensorType, values []float32, shape []uint64) []byte { panic(absent) }
