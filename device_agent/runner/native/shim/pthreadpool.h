// ExecuTorch's wheel ships threadpool.h without the header it includes; these two names are all it needs.
#pragma once
struct pthreadpool;
extern "C" void pthreadpool_destroy(pthreadpool* pool);
typedef struct pthreadpool* pthreadpool_t;
