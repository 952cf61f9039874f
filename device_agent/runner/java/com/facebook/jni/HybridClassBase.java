package com.facebook.jni;

/** The base of classes that are themselves the holder of their native part. */
public abstract class HybridClassBase extends HybridData {}
