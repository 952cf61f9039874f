package fulcrum;

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/** The plan: what the agent tells the runner, in lines of words (device_agent/runner/plan.py writes them). */
final class Plan {
  static final class State {
    final boolean inPlace;
    final long[] shape;

    State(boolean inPlace, long[] shape) {
      this.inPlace = inPlace;
      this.shape = shape;
    }

    int size() {
      long size = 1;
      for (long n : shape) size *= n;
      return (int) size;
    }
  }

  static final class Stage {
    final String path;
    final boolean takesPosition;
    final List<State> states = new ArrayList<>();

    Stage(String path, boolean takesPosition) {
      this.path = path;
      this.takesPosition = takesPosition;
    }
  }

  /** What is measured beside the main workload: "prefill" times prompts, "decode" times tokens at a depth. */
  static final class Workload {
    final String kind;
    final int prefill;
    final int decode;

    Workload(String kind, int prefill, int decode) {
      if (!kind.equals("prefill") && !kind.equals("decode")) throw new NumberFormatException(kind);
      this.kind = kind;
      this.prefill = prefill;
      this.decode = decode;
    }
  }

  String mode = "";
  int threads = 1;
  int chunk = 1;
  int vocab = 0;
  int context = 0;
  int prefill = 0;
  int decode = 0;
  int warmup = 0;
  int repetitions = 1;
  double warmupSeconds = 0;
  double repetitionSeconds = 0;
  double maxSeconds = 0; // 0 is no cap
  int memoryMs = 0; // 0 reads no memory while it runs
  final List<Workload> further = new ArrayList<>();
  long[] prompt = {};
  final List<Stage> stages = new ArrayList<>();

  static Plan read(String path) throws IOException {
    Plan plan = new Plan();
    try (BufferedReader lines =
        new BufferedReader(new InputStreamReader(new FileInputStream(path), StandardCharsets.UTF_8))) {
      for (String line = lines.readLine(); line != null; line = lines.readLine()) {
        if (!line.trim().isEmpty()) plan.take(line.trim().split("\\s+"), line);
      }
    }
    if (plan.stages.isEmpty() || plan.vocab < 2 || plan.chunk < 1) {
      throw new IllegalArgumentException("the plan is incomplete");
    }
    return plan;
  }

  private void take(String[] words, String line) {
    try {
      switch (words[0]) {
        case "mode": mode = words[1]; break;
        case "threads": threads = Integer.parseInt(words[1]); break;
        case "chunk": chunk = Integer.parseInt(words[1]); break;
        case "vocab": vocab = Integer.parseInt(words[1]); break;
        case "context": context = Integer.parseInt(words[1]); break;
        case "prefill": prefill = Integer.parseInt(words[1]); break;
        case "decode": decode = Integer.parseInt(words[1]); break;
        case "warmup": warmup = Integer.parseInt(words[1]); break;
        case "repetitions": repetitions = Integer.parseInt(words[1]); break;
        case "warmup_seconds": warmupSeconds = seconds(words[1]); break;
        case "repetition_seconds": repetitionSeconds = seconds(words[1]); break;
        case "max_seconds": maxSeconds = seconds(words[1]); break;
        case "memory_ms": memoryMs = Integer.parseInt(words[1]); break;
        case "workload":
          further.add(new Workload(words[1], Integer.parseInt(words[2]), Integer.parseInt(words[3])));
          break;
        case "prompt": prompt = numbers(words, 1); break;
        case "stage": stages.add(new Stage(words[1], flag(words[2]))); break;
        case "state":
          stages.get(stages.size() - 1).states.add(new State(words[1].equals("in_place"), numbers(words, 2)));
          break;
        default: throw new IllegalArgumentException("the plan has a line that this runner does not know: " + line);
      }
    } catch (IndexOutOfBoundsException | NumberFormatException error) {
      throw new IllegalArgumentException("the plan has a malformed line: " + line);
    }
  }

  private static boolean flag(String word) {
    if (!word.equals("0") && !word.equals("1")) throw new NumberFormatException(word);
    return word.equals("1");
  }

  /** Java reads NaN as a number, which no clock would ever reach. */
  private static double seconds(String word) {
    double value = Double.parseDouble(word);
    if (Double.isNaN(value) || Double.isInfinite(value)) throw new NumberFormatException(word);
    return value;
  }

  private static long[] numbers(String[] words, int from) {
    long[] found = new long[words.length - from];
    for (int i = 0; i < found.length; i++) found[i] = Long.parseLong(words[from + i]);
    return found;
  }
}
