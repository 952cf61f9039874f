package fulcrum;

import java.io.ByteArrayOutputStream;
import java.io.FileInputStream;
import java.io.FileNotFoundException;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;

/** What the kernel says of this process (proc(5)). */
final class Memory {
  private static final long TICK_NS = 10_000_000; // USER_HZ is 100 on every Linux and Android

  private Memory() {}

  /** The high-water mark of resident memory. */
  static long peakBytes() throws IOException {
    long peak = bytes("VmHWM:");
    if (peak < 0) throw new IOException("/proc/self/status has no VmHWM");
    return peak;
  }

  /** Resident memory and what of it was swapped out. */
  static long residentBytes() throws IOException {
    return bytes("VmRSS:") + Math.max(0, bytes("VmSwap:"));
  }

  private static long bytes(String field) throws IOException {
    for (String line : read("/proc/self/status").split("\n")) {
      if (line.startsWith(field)) return Long.parseLong(line.substring(field.length()).replace("kB", "").trim()) * 1024;
    }
    return -1;
  }

  /**
   * Processor time of all threads that are and were, to a hundredth of a second. /proc/self/schedstat is finer, but of
   * the first thread alone; android.os.Process is on no host.
   */
  static long cpuNs() throws IOException {
    String stat = read("/proc/self/stat");
    String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
    return (Long.parseLong(fields[11]) + Long.parseLong(fields[12])) * TICK_NS; // utime and stime, 14 and 15 of proc(5)
  }

  static void tell(Answer answer, String when) throws IOException {
    answer.memory(when, read("/proc/self/status"), rollup());
  }

  /** Empty where it cannot be opened (Linux has it from 4.14 on); what it would have said is unknown to the agent. */
  private static String rollup() throws IOException {
    try {
      return read("/proc/self/smaps_rollup");
    } catch (FileNotFoundException absent) {
      return "";
    }
  }

  /** Starting up touches more memory than stays: the mark begins anew, where the kernel lets us. */
  static void resetPeak() {
    try (FileOutputStream file = new FileOutputStream("/proc/self/clear_refs")) {
      file.write('5');
    } catch (IOException refused) {
      // The baseline is then the mark of the start, and the difference to the peak is too small, never too large.
      System.err.println("the peak of the start could not be reset: " + refused.getMessage());
    }
  }

  private static String read(String path) throws IOException {
    ByteArrayOutputStream bytes = new ByteArrayOutputStream();
    try (InputStream file = new FileInputStream(path)) {
      byte[] chunk = new byte[4096];
      for (int count = file.read(chunk); count > 0; count = file.read(chunk)) bytes.write(chunk, 0, count);
    }
    return new String(bytes.toByteArray(), StandardCharsets.UTF_8);
  }
}
