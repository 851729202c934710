/* What stands for NVIDIA's driver where rooms are made: memory of this process, whose handle is its address. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct { unsigned char bytes[64]; } Handle;

int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(intptr_t)(device + 1); return 0; }
int cuCtxSetCurrent(void *context) { return context ? 0 : 201; }
int cuMemAlloc_v2(uint64_t *address, size_t size) {
  void *room = 0;
  int status = posix_memalign(&room, 256, size);
  *address = (uint64_t)(uintptr_t)room;
  return status;
}
int cuMemsetD8_v2(uint64_t address, unsigned char value, size_t size) {
  memset((void *)(uintptr_t)address, value, size);
  return 0;
}
int cuIpcGetMemHandle(Handle *handle, uint64_t address) {
  memset(handle, 0x80, sizeof *handle);
  memcpy(handle->bytes, &address, 8);
  return 0;
}
int cuIpcOpenMemHandle_v2(uint64_t *address, Handle handle, unsigned flags) {
  memcpy(address, handle.bytes, 8);
  return flags == 1 && handle.bytes[63] == 0x80 ? 0 : 1;
}
