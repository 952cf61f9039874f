"""FILE CONTEXT THREADS KV: a process of llama.cpp that answers JSON lines; it runs in llama-cpp-python's environment.

Each request is a line, each answer a line:

    {"do": "turn", "prompt": [1, 2], "new_tokens": 3}   from an empty state, greedily; a time is llama_decode's alone
    {"do": "tokenise", "text": "..."}

KV is the type of keys and values, f16 as llama.cpp has it or f32.
"""

import ctypes
import json
import sys
import time

import llama_cpp as llama
import numpy as np

_ERROR = 4  # of ggml_log_level


class Model:
    def __init__(self, file: str, context: int, threads: int, kv: str) -> None:
        start = time.perf_counter_ns()
        self.model = llama.llama_model_load_from_file(file.encode(), llama.llama_model_default_params())
        if not self.model:
            sys.exit(f"llama.cpp refused {file}")
        wanted = llama.llama_context_default_params()
        wanted.n_ctx, wanted.n_batch, wanted.n_ubatch = context, context, 512
        wanted.type_k = wanted.type_v = llama.GGML_TYPE_F32 if kv == "f32" else llama.GGML_TYPE_F16
        wanted.n_threads = wanted.n_threads_batch = threads
        self.context = llama.llama_init_from_model(self.model, wanted)
        if not self.context:
            sys.exit("llama.cpp made no context")
        self.load_ns = time.perf_counter_ns() - start
        self.vocabulary = llama.llama_model_get_vocab(self.model)
        self.size = llama.llama_vocab_n_tokens(self.vocabulary)

    def feed(self, tokens: list[int]) -> tuple[int, int]:
        """(the likeliest next token, ns that reading took)."""
        held = (llama.llama_token * len(tokens))(*tokens)  # the batch points into it
        batch = llama.llama_batch_get_one(held, len(tokens))
        start = time.perf_counter_ns()
        code = llama.llama_decode(self.context, batch)
        llama.llama_synchronize(self.context)
        taken = time.perf_counter_ns() - start
        if code:
            sys.exit(f"llama_decode gave {code}")
        logits = np.ctypeslib.as_array(llama.llama_get_logits_ith(self.context, -1), shape=(self.size,))
        return int(logits.argmax()), taken

    def turn(self, prompt: list[int], new_tokens: int) -> dict[str, object]:
        llama.llama_memory_clear(llama.llama_get_memory(self.context), True)
        token, prefill = self.feed(prompt)
        tokens, times = [token], []
        while len(tokens) < new_tokens:
            token, taken = self.feed([token])
            tokens.append(token)
            times.append(taken)
        return {"tokens": tokens, "prefill_ns": prefill, "decode_ns": times}

    def tokenise(self, text: str) -> dict[str, object]:
        data = text.encode()
        room = (llama.llama_token * (len(data) + 8))()
        count = llama.llama_tokenize(self.vocabulary, data, len(data), room, len(room), True, False)
        return {"ids": list(room[:count])}


def complain(level: int, text: bytes, _: object) -> None:
    """Of all that llama.cpp says, errors alone."""
    if level == _ERROR:
        sys.stderr.write(text.decode(errors="replace"))


def main() -> None:
    heard = llama.llama_log_callback(complain)  # kept by name: llama.cpp calls it until the end
    llama.llama_log_set(heard, ctypes.c_void_p(0))
    llama.llama_backend_init()
    model = Model(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    features = llama.llama_print_system_info().decode()
    print(json.dumps({"load_ns": model.load_ns, "features": features}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "turn":
            answer = model.turn(request["prompt"], request["new_tokens"])
        else:
            answer = model.tokenise(request["text"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
