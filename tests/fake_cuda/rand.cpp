// libcurand.so.10: generators that candle creates with a device, though vlmd samples on the host.
extern "C" {

int curandCreateGenerator(void** generator, int) {
    static int only;
    return *generator = &only, 0;
}
int curandDestroyGenerator(void*) { return 0; }
int curandSetStream(void*, void*) { return 0; }
int curandSetPseudoRandomGeneratorSeed(void*, unsigned long long) { return 0; }
int curandSetGeneratorOffset(void*, unsigned long long) { return 0; }

}  // extern "C"
