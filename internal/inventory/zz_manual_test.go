package inventory
import ("testing";"os";"time";"encoding/json";"bytes";"context";"github.com/kubepki/kubepki/internal/pkidir";"github.com/kubepki/kubepki/layout")
func TestManual(t *testing.T){
 root:=os.Getenv("INV_ROOT"); if root=="" {t.Skip()}
 c:=layout.Default()
 c.ExternalEtcd = os.Getenv("EXT")!=""
 tr,_:=pkidir.Open(context.Background(),pkidir.Options{Root:root,Certificates:c.CertificatesDir,Kubeconfigs:c.KubeconfigDir,ReadOnly:true})
 now:=time.Now()
 x:=Expirations(tr,c,now)
 var b bytes.Buffer
 FormatTable(&b,x); os.WriteFile(root+".txt",b.Bytes(),0o644)
 j,_:=json.MarshalIndent(x.Info(),"","    "); os.WriteFile(root+".json",append(j,'\n'),0o644)
 r:=Read(tr,Options{Cluster:c,Now:now})
 w:=NewTableWriter(os.Stdout,now,false); r.Print(w); r.Explain(os.Stdout,Info)
 NW,_:=WriteNagios(os.Stdout,r.Summary,now,0); t.Log(NW)
}
