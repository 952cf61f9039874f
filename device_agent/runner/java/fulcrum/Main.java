package fulcrum;

/** From the command line to an exit code, with every failure told as an answer. */
final class Main {
  private Main() {}

  static int run(String[] arguments, Stage.Loader loader, Answer answer) {
    try {
      if (arguments.length != 1) throw new IllegalArgumentException("usage: fulcrum.Runner PLAN");
      Loop.run(Plan.read(arguments[0]), loader, answer);
      return 0;
    } catch (OutOfMemoryError error) {
      answer.error("out-of-memory", "no memory for the Program or its state");
    } catch (RuntimeException error) {
      boolean refused = error.getClass().getName().startsWith("org.pytorch.");
      answer.error(refused ? "program-refused" : "runner-failed", error.getMessage());
    } catch (Exception | LinkageError error) {
      answer.error("runner-failed", error.toString());
    }
    return 1;
  }
}
