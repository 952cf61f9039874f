package fulcrum;

/**
 * The Java runner: `app_process -Dfulcrum.libdir=DIR / fulcrum.Runner PLAN`, with this archive as CLASSPATH.
 *
 * <p>It speaks the same plans and answers as the native runner, for phones whose owner has no NDK.
 */
public final class Runner implements Stage.Loader {
  private Runner() {}

  @Override
  public Stage load(Plan.Stage plan, int threads) {
    return new TorchStage(plan, threads);
  }

  public static void main(String[] arguments) {
    int code = Main.run(arguments, new Runner(), new Answer(System.out));
    Runtime.getRuntime().halt(code); // everything was said; native threads are left to the kernel
  }
}
