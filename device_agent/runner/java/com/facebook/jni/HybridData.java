package com.facebook.jni;

import com.facebook.soloader.nativeloader.NativeLoader;
import com.facebook.soloader.nativeloader.SystemDelegate;

/** What libfbjni.so asks of this class by name: a holder of one native pointer, and a way to delete it. */
public class HybridData {
  static {
    if (!NativeLoader.isInitialized()) NativeLoader.init(new SystemDelegate());
    NativeLoader.loadLibrary("fbjni");
  }

  private final Destructor mDestructor = new Destructor(this);

  public boolean isValid() {
    return mDestructor.mNativePointer != 0;
  }

  public synchronized void resetNative() {
    mDestructor.destruct();
  }

  public static class Destructor extends DestructorThread.Destructor {
    private volatile long mNativePointer; // the native side reads and writes it by this name

    Destructor(Object referent) {
      super(referent);
    }

    @Override
    protected final void destruct() {
      deleteNative(mNativePointer);
      mNativePointer = 0;
    }

    static native void deleteNative(long pointer);
  }
}
