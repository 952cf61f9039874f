package com.facebook.jni;

import java.lang.ref.PhantomReference;
import java.lang.ref.ReferenceQueue;

/** A runner is one short process: native objects live until it ends, so nothing is collected behind its back. */
public class DestructorThread {
  private static final ReferenceQueue<Object> NOBODY_READS = new ReferenceQueue<>();

  private DestructorThread() {}

  public abstract static class Destructor extends PhantomReference<Object> {
    public Destructor(Object referent) {
      super(referent, NOBODY_READS);
    }

    protected abstract void destruct();
  }
}
