package com.facebook.jni.annotations;

/** A mark that ExecuTorch's classes carry; nothing strips here. */
public @interface DoNotStrip {}
