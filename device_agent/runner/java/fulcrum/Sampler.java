package fulcrum;

import java.io.IOException;

/** Reads RSS + swap every few milliseconds: VmHWM does not count pages that were swapped out meanwhile. */
final class Sampler implements Runnable {
  private final int milliseconds;
  private final Thread thread = new Thread(this, "memory");
  private volatile boolean stopped = false;
  private volatile IOException failure;
  private long peak = 0;
  private long count = 0;

  Sampler(int milliseconds) {
    this.milliseconds = milliseconds;
    thread.setDaemon(true);
    thread.start();
  }

  @Override
  public void run() {
    try {
      while (!stopped) {
        peak = Math.max(peak, Memory.residentBytes());
        count++;
        Thread.sleep(milliseconds);
      }
    } catch (IOException error) {
      failure = error;
    } catch (InterruptedException end) {
      Thread.currentThread().interrupt();
    }
  }

  void finish(Answer answer) throws IOException {
    stopped = true;
    try {
      thread.join();
    } catch (InterruptedException end) {
      Thread.currentThread().interrupt();
    }
    if (failure != null) throw failure;
    answer.sampled(peak, count);
  }
}
