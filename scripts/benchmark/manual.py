"""What `scripts/bench.py --help` says."""

DESCRIPTION = """\
Start-up time and token rates, the last line of the output as one JSON object.

Without one of the modes below four things are measured in turn, in every round:

    spawn      a fresh `mlx-runner` process until the first 200 on /health
    pipeline   the worker in this process, no HTTP
    http       the same prompt sent to a runner that was spawned before
    mlx-lm     the same prompt, in a process of its own: same weights, dtype and BLAS

With --against DIR, the runners of two checkouts, this one and DIR, each installed in its own .venv: the same
prompts to both in turn, and the quotients of their speeds. With --structured the pipeline with a grammar and
without one, in turn.

With --growth 1024,4096 prompts of these lengths, and decoding behind each of them, in the pipeline and in mlx-lm,
which take turns at every prompt. The first round, in which each length is new to both, is not counted. Peak memory
is what MLX held at most during a request, in the process of that side alone, the model included.

With --clients 1,2,4 load over HTTP: so many clients at once, each with a connection of its own and one request
after the other, on a fresh runner and on a fresh mlx_lm.server, which comes first for every other number. Prompts
are of three lengths, --prompt and a fourth and a sixteenth of it; one request of eight is left half-way, at both
servers alike. Measured at the client, with prefill:

    tok/s         tokens of all clients over the time in which none was done with its last request (busy), or until
                  the last token of all (whole). The runner's records count tokens. An event of mlx_lm.server with
                  text is one, and its last event counts them all
    first token   from sending a request to the first record of its answer
    gap           between two records of an answer that brought tokens
    differ        answers under load that are not, to the letter, what the same server says to a client alone

With --arrival N a prompt of N tokens comes to a runner while --rows clients read long answers, and in turn to the
same runner while it is idle: what the pauses and the speed of the others are before it comes and until its first
token, and when that token comes.

With --cache 8192,20480 chats of so many tokens over HTTP: when the first token comes if nothing is kept of one
(cold); and then, from memory, if it goes on with a new question of --prompt tokens, if that turn is regenerated,
if its question is edited. The same three from the disk: the runner is killed (SIGKILL), the system's copy of the
files in memory is dropped, and a new process is asked. Then mlx_lm.server is asked the same, with its own cache in
memory. The models random-plain, random-gemma and random-qwen3.5 are small and of random weights, one of each kind
of memory: all keys and values, windows of 512, states.

--save FILE writes the report, indented, also into a file. With --draw FOLDER nothing is measured: all such files
of a folder become docs/plots/WHAT-DEVICE.svg, with a row for each report. WHAT is speed (of the usual mode), growth
or clients; reports of other modes are left out. Drawing needs matplotlib, but neither MLX nor the machine that was
measured: the files of a machine without either network or matplotlib are drawn where they are brought.

Decoding is greedy and end-of-sequence tokens are banned, so every request generates as many tokens as asked for,
and the texts must be equal. Each prompt begins differently, so no prefix cache helps, but with --cache. Prefill
speed is prompt tokens over the time to the first token; decode speed is the tokens after the first over the time
that they took.
"""

EPILOG = """\
examples, in a shell that did `scripts/install dev && . .venv/bin/activate`:
  scripts/bench.py                                       the demo model: 256 tokens in, 64 out, 5 rounds
  scripts/bench.py --model smollm2                       a published model of 135 M parameters, fetched if need be
  scripts/bench.py --model DIR --prompt 1024 --generate 128 --rounds 3
  scripts/bench.py | tail -1 | python -m json.tool       the figures alone
  scripts/bench.py --against ../before                   is this checkout as fast as that one?
  scripts/bench.py --against .                           how much the same code differs from itself
  scripts/bench.py --structured --rounds 40              what structured output costs
  scripts/bench.py --clients 1,2,4,8 --parallel 8        many at once, beside mlx_lm.server
  scripts/bench.py --arrival 4096 --rows 4               a long prompt comes while four answers are under way
  scripts/bench.py --growth 256,1024,4096                speed and memory by the length of the prompt
  scripts/bench.py --model random-gemma --cache 8192     what is kept of a chat, in memory and on the disk
  scripts/bench.py --save scripts/results/cpu-demo.json  keep the report
  scripts/bench.py --draw scripts/results                plots of all reports that were kept
  OPENBLAS_NUM_THREADS=1 scripts/bench.py --against ../before --rounds 320      closer: five minutes on a CPU

On a shared machine trust the ratios, which are medians of quotients within a round, and not the absolute speeds.
smollm2-dense is smollm2 as floats: mlx-lm multiplies by packed matrices as they are, and the runner, on a CPU, by
floats. mlx-lm comes with `pip install -e '.[dev]'`; --without-mlx-lm leaves it out. Write what you learn, and what
you lose, into scripts/BENCH.md.
"""
